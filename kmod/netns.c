// SPDX-License-Identifier: GPL-2.0
/*
 * The cache of a network namespace: nothing but this struct until a configuration starts it.
 *
 * Starting and stopping are in process context under ctc_mutex. The namespace's exit stops it in
 * pre_exit, before its devices and conntrack go: by then no packet has a decision's dst for
 * longer than a grace period.
 */
#include <linux/netlink.h>
#include <linux/slab.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "ctc.h"

unsigned int ctc_net_id;

/* Guards configuration, starting and stopping of all namespaces, and ctc_nets. */
DEFINE_MUTEX(ctc_mutex);
LIST_HEAD(ctc_nets);

struct ctc_net *ctc_pernet(const struct net *net)
{
	return net_generic(net, ctc_net_id);
}

/*
 * Brings up everything but the first epoch (ctc_epoch_install()); the configuration is set.
 * Events count from here on: what happens before the first epoch has nothing to invalidate.
 */
int ctc_net_start(struct ctc_net *cn, struct netlink_ext_ack *extack)
{
	int err;

	lockdep_assert_held(&ctc_mutex);
	cn->cpu = alloc_percpu_gfp(struct ctc_cpu, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!cn->cpu)
		return -ENOMEM;
	err = ctc_notify_start(cn, extack);
	if (err)
		goto out_cpu;
	err = ctc_hooks_register(cn);
	if (err)
		goto out_notify;
	list_add(&cn->list, &ctc_nets);
	WRITE_ONCE(cn->started, true);
	ctc_ipsec_start(cn);
	return 0;

out_notify:
	ctc_notify_stop(cn);
out_cpu:
	free_percpu(cn->cpu);
	cn->cpu = NULL;
	return err;
}

/* Gives everything back: hooks, references, the numbers in the entries, memory. */
void ctc_net_stop(struct ctc_net *cn)
{
	struct ctc_config *config = ctc_config(cn);
	struct ctc_table *table = rcu_dereference_protected(cn->table, lockdep_is_held(&ctc_mutex));
	bool lost;

	if (!cn->started)
		return;
	lost = cn->state == CTCACHE_STATE_LOST;
	WRITE_ONCE(cn->started, false);
	list_del(&cn->list);
	ctc_epoch_stop(cn, CTCACHE_STATE_OFF);
	ctc_hooks_unregister(cn);
	ctc_notify_stop(cn);
	cn->quiet = 0;
	/* A carrier that was lost has been cleared then, and is somebody else's now. */
	if (!lost)
		ctc_sweep(cn, config->carrier, CTC_ALL_ZONES);
	ctc_carrier_put(cn->net, config->carrier);
	RCU_INIT_POINTER(cn->table, NULL);
	RCU_INIT_POINTER(cn->config, NULL);
	synchronize_net();
	ctc_table_free(table);
	ctc_config_free(config);
	free_percpu(cn->cpu);
	cn->cpu = NULL;
}

static int __net_init ctc_net_init(struct net *net)
{
	struct ctc_net *cn = ctc_pernet(net);

	cn->net = net;
	cn->used = 1;
	cn->state = CTCACHE_STATE_OFF;
	spin_lock_init(&cn->lock);
	INIT_WORK(&cn->sweep, ctc_sweep_work);
	return 0;
}

static void __net_exit ctc_net_pre_exit(struct net *net)
{
	struct ctc_net *cn = ctc_pernet(net);

	mutex_lock(&ctc_mutex);
	ctc_net_stop(cn);
	mutex_unlock(&ctc_mutex);
	/* It takes the mutex; it finds the cache stopped. */
	cancel_work_sync(&cn->sweep);
}

/* Before conntrack's, which was registered earlier. */
static void __net_exit ctc_net_exit(struct net *net)
{
	ctc_record_leave(net);
}

struct pernet_operations ctc_net_ops = {
	.init = ctc_net_init,
	.pre_exit = ctc_net_pre_exit,
	.exit = ctc_net_exit,
	.id = &ctc_net_id,
	.size = sizeof(struct ctc_net),
};

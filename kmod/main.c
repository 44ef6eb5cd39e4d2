// SPDX-License-Identifier: GPL-2.0
/*
 * nf_ctcache: caches the lookups of the packet path in conntrack entries. See ctcache.h for the
 * model.
 *
 * Loading it does nothing to any packet: a namespace starts when it is configured.
 */
#include <linux/module.h>
#include <net/genetlink.h>

#include "ctc.h"

static int __init ctc_init(void)
{
	int err;

	BUILD_BUG_ON(sizeof(struct ctc_decision) != 64);
	BUILD_BUG_ON(sizeof(struct ctc_flow) != 8);

	err = register_pernet_subsys(&ctc_net_ops);
	if (err)
		return err;
	err = ctc_notify_init();
	if (err)
		goto out_pernet;
	err = ctc_carrier_init();
	if (err)
		goto out_notify;
	err = genl_register_family(&ctc_genl);
	if (err)
		goto out_carrier;
	return 0;

out_carrier:
	ctc_carrier_exit();
out_notify:
	ctc_notify_exit();
out_pernet:
	unregister_pernet_subsys(&ctc_net_ops);
	return err;
}

/*
 * Messages first, so that nothing starts any more; caches next, as long as they are told of events.
 */
static void __exit ctc_exit(void)
{
	struct ctc_net *cn, *next;

	genl_unregister_family(&ctc_genl);
	mutex_lock(&ctc_mutex);
	list_for_each_entry_safe(cn, next, &ctc_nets, list)
		ctc_net_stop(cn);
	mutex_unlock(&ctc_mutex);
	ctc_carrier_exit();
	ctc_notify_exit();
	unregister_pernet_subsys(&ctc_net_ops);
	ctc_record_exit();
	rcu_barrier(); /* ctc_dst_put() */
}

module_init(ctc_init);
module_exit(ctc_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Caching of route lookups in conntrack entries");
MODULE_ALIAS_GENL_FAMILY(CTCACHE_GENL_NAME);

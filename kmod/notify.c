// SPDX-License-Identifier: GPL-2.0
/*
 * Notifiers: whatever could change any decision starts an epoch.
 *
 * One increment at once, and one more when the change has been published for certain: a work item
 * that takes and drops the RTNL (changes are published under it), then waits for packets that
 * were looked up before (synchronize_net()). Events that come meanwhile share it. Notifiers that
 * run before publication also stop learning until then (ctc_epoch_start()); the comments say
 * where 6.1 publishes:
 *  - fib_trie.c, fib_rules.c, nexthop.c: after the notifier, then rt_cache_flush() or a new fib6
 *    sernum;
 *  - ip6_fib.c: fib6_del_route() before it, without a new sernum; fib6_add_rt2node() after it;
 *  - devices and addresses: our notifiers are the last ones of their chains. PMTU exceptions,
 *    redirects and sysctls that flush show in the generations (ctc_epoch()) or in the dst.
 */
#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/addrconf.h>
#include <net/fib_notifier.h>
#include <net/netevent.h>
#include <net/nexthop.h>

#include "ctc.h"

#define CTC_QUIET_BOTH (CTC_QUIET_4 | CTC_QUIET_6)

/* Any context but hard interrupts. */
void ctc_event(struct ctc_net *cn, enum ctcache_cause cause, u8 quiet)
{
	if (!READ_ONCE(cn->started))
		return;
	ctc_epoch_start(cn, cause, quiet);
	queue_work(system_unbound_wq, &cn->settle);
}

static void ctc_settle_work(struct work_struct *work)
{
	struct ctc_net *cn = container_of(work, struct ctc_net, settle);

	/* What is announced from here on is for the next run. */
	spin_lock_bh(&cn->lock);
	cn->settling = cn->announced;
	spin_unlock_bh(&cn->lock);
	rtnl_lock();
	rtnl_unlock();
	synchronize_net();
	ctc_epoch_start(cn, CTCACHE_CAUSE_SETTLED, 0);
}

/* Atomic, with or without RTNL. */
static int ctc_fib_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct ctc_net *cn = container_of(nb, struct ctc_net, fib_nb);
	const struct fib_notifier_info *info = data;
	bool v4 = info->family == AF_INET;
	u8 quiet = v4 ? CTC_QUIET_4 : CTC_QUIET_6;

	if (info->family != AF_INET && info->family != AF_INET6)
		return NOTIFY_DONE;
	switch (event) {
	case FIB_EVENT_RULE_ADD:
	case FIB_EVENT_RULE_DEL:
		ctc_event(cn, CTCACHE_CAUSE_RULE, quiet);
		break;
	case FIB_EVENT_NH_ADD:
	case FIB_EVENT_NH_DEL:
		ctc_event(cn, CTCACHE_CAUSE_NEXTHOP, quiet);
		break;
	case FIB_EVENT_ENTRY_DEL:
		ctc_event(cn, v4 ? CTCACHE_CAUSE_FIB4 : CTCACHE_CAUSE_FIB6, v4 ? CTC_QUIET_4 : 0);
		break;
	default:
		ctc_event(cn, v4 ? CTCACHE_CAUSE_FIB4 : CTCACHE_CAUSE_FIB6, quiet);
	}
	return NOTIFY_DONE;
}

/* Under RTNL. */
static int ctc_nexthop_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct ctc_net *cn = container_of(nb, struct ctc_net, nexthop_nb);
	const struct nh_notifier_info *info = data;

	/*
	 * Every lookup through a resilient group marks a bucket as used (nexthop.c,
	 * nh_res_bucket_set_busy()).
	 */
	if (event == NEXTHOP_EVENT_RES_TABLE_PRE_REPLACE ||
	    info->type == NH_NOTIFIER_INFO_TYPE_RES_TABLE)
		WRITE_ONCE(cn->resilient, true);
	ctc_event(cn, CTCACHE_CAUSE_NEXTHOP, CTC_QUIET_BOTH);
	return NOTIFY_DONE;
}

/* Under RTNL. References on the device are gone when this returns. */
static int ctc_device_event(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct net_device *dev = netdev_notifier_info_to_dev(data);

	switch (event) {
	case NETDEV_UP:
	case NETDEV_DOWN:
	case NETDEV_GOING_DOWN:
	case NETDEV_CHANGE:
	case NETDEV_CHANGEMTU:
	case NETDEV_CHANGEUPPER:
	case NETDEV_UNREGISTER:
		ctc_event(ctc_pernet(dev_net(dev)), CTCACHE_CAUSE_DEVICE, 0);
		break;
	}
	return NOTIFY_DONE;
}

static int ctc_address4_event(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct in_ifaddr *address = data;

	ctc_event(ctc_pernet(dev_net(address->ifa_dev->dev)), CTCACHE_CAUSE_ADDRESS, 0);
	return NOTIFY_DONE;
}

/* Atomic. */
static int ctc_address6_event(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct inet6_ifaddr *address = data;

	ctc_event(ctc_pernet(dev_net(address->idev->dev)), CTCACHE_CAUSE_ADDRESS, 0);
	return NOTIFY_DONE;
}

static int ctc_netevent(struct notifier_block *nb, unsigned long event, void *data)
{
	if (event == NETEVENT_IPV4_MPATH_HASH_UPDATE || event == NETEVENT_IPV6_MPATH_HASH_UPDATE)
		ctc_event(ctc_pernet(data), CTCACHE_CAUSE_SYSCTL, 0);
	return NOTIFY_DONE;
}

static struct notifier_block ctc_device_nb = { .notifier_call = ctc_device_event,
					       .priority = INT_MIN };
static struct notifier_block ctc_address4_nb = { .notifier_call = ctc_address4_event,
						 .priority = INT_MIN };
static struct notifier_block ctc_address6_nb = { .notifier_call = ctc_address6_event,
						 .priority = INT_MIN };
static struct notifier_block ctc_netevent_nb = { .notifier_call = ctc_netevent,
						 .priority = INT_MIN };

/* Of all namespaces; ctc_event() ignores those that are not started. */
int ctc_notify_init(void)
{
	int err = register_netdevice_notifier(&ctc_device_nb);

	if (err)
		return err;
	register_inetaddr_notifier(&ctc_address4_nb);
#if CTC_IPV6
	register_inet6addr_notifier(&ctc_address6_nb);
#endif
	register_netevent_notifier(&ctc_netevent_nb);
	ctc_ipsec_init();
	return 0;
}

void ctc_notify_exit(void)
{
	ctc_ipsec_exit();
	unregister_netevent_notifier(&ctc_netevent_nb);
#if CTC_IPV6
	unregister_inet6addr_notifier(&ctc_address6_nb);
#endif
	unregister_inetaddr_notifier(&ctc_address4_nb);
	unregister_netdevice_notifier(&ctc_device_nb);
}

/*
 * Process context. Registering replays what is there already, which is ignored as long as
 * cn->started is not set.
 */
int ctc_notify_start(struct ctc_net *cn, struct netlink_ext_ack *extack)
{
	int err;

	INIT_WORK(&cn->settle, ctc_settle_work);
	err = ctc_netconf_start(cn);
	if (err)
		return err;
	cn->fib_nb.notifier_call = ctc_fib_event;
	cn->fib_nb.priority = INT_MIN;
	err = register_fib_notifier(cn->net, &cn->fib_nb, NULL, extack);
	if (err)
		goto out_netconf;
	cn->nexthop_nb.notifier_call = ctc_nexthop_event;
	cn->nexthop_nb.priority = INT_MIN;
	err = register_nexthop_notifier(cn->net, &cn->nexthop_nb, extack);
	if (err)
		goto out_fib;
	return 0;

out_fib:
	unregister_fib_notifier(cn->net, &cn->fib_nb);
out_netconf:
	ctc_netconf_stop(cn);
	return err;
}

/*
 * Process context. No event is under way when this returns: those of devices and addresses are
 * over when the RTNL has been taken (unregister_nexthop_notifier()), atomic ones since the grace
 * period of ctc_hooks_unregister().
 */
void ctc_notify_stop(struct ctc_net *cn)
{
	unregister_nexthop_notifier(cn->net, &cn->nexthop_nb);
	unregister_fib_notifier(cn->net, &cn->fib_nb);
	ctc_netconf_stop(cn);
	cancel_work_sync(&cn->settle);
}

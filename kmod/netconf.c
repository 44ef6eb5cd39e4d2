// SPDX-License-Identifier: GPL-2.0
/*
 * Netconf: sysctls of devices that a lookup reads, and that no notifier tells of.
 *
 * rp_filter and ignore_routes_with_linkdown are announced to rtnetlink's groups
 * RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF (devinet.c, addrconf.c) when they have been set. So
 * the cache listens there, with a socket of its own in the namespace; what the message says is of
 * no interest.
 *
 * IPv6 announces ignore_routes_with_linkdown only of "all". Set for one device it is not noticed,
 * which matters if the link of that device is down, its routes are better than those in use, and it
 * is switched off: they are used when the next epoch begins.
 */
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/sock.h>

#include "ctc.h"

#define CTC_GROUP(group) (BIT(group) >> 1)

/* In the context of who changed the sysctl. */
static void ctc_netconf_ready(struct sock *sk)
{
	struct ctc_net *cn;

	skb_queue_purge(&sk->sk_receive_queue);
	rcu_read_lock();
	cn = rcu_dereference_sk_user_data(sk);
	if (cn)
		ctc_event(cn, CTCACHE_CAUSE_SYSCTL, 0);
	rcu_read_unlock();
}

/* Process context. The socket holds no reference on its namespace; stop before that goes. */
int ctc_netconf_start(struct ctc_net *cn)
{
	struct sockaddr_nl address = {
		.nl_family = AF_NETLINK,
		.nl_groups = CTC_GROUP(RTNLGRP_IPV4_NETCONF) | CTC_GROUP(RTNLGRP_IPV6_NETCONF),
	};
	int err = sock_create_kern(cn->net, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, &cn->netconf);

	if (err)
		return err;
	rcu_assign_sk_user_data(cn->netconf->sk, cn);
	cn->netconf->sk->sk_data_ready = ctc_netconf_ready;
	/* A message that could not be made is announced, too. */
	cn->netconf->sk->sk_error_report = ctc_netconf_ready;
	err = kernel_bind(cn->netconf, (struct sockaddr *)&address, sizeof(address));
	if (err)
		ctc_netconf_stop(cn);
	return err;
}

/* Process context. A message that is under way is over when the socket has been released. */
void ctc_netconf_stop(struct ctc_net *cn)
{
	rcu_assign_sk_user_data(cn->netconf->sk, NULL);
	sock_release(cn->netconf);
	synchronize_net();
	cn->netconf = NULL;
}

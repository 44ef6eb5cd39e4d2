// SPDX-License-Identifier: GPL-2.0
/*
 * Routes: what may be kept of a lookup, and what makes it valid.
 *
 * The slow path's answer depends on the packet's addresses and ports (the flow's tuple), input
 * device, mark and DSCP (the key), and on state of the kernel. Most of that state starts an epoch
 * when it changes (notify.c). What does not is looked at here, on every hit, and read from lines
 * that the packet touches anyway:
 *  - the kernel gives a dst up by its `obsolete` (IPv4 path MTU and redirect, dst_dev_put()) and
 *    `expires`;
 *  - it does so only with dsts that it can find again: rt_uncached_list tells when IPv4 lost
 *    sight of one (rt_cache_route() may replace a valid route), and IPv6 routes that came with a
 *    lifetime keep their fib6_info;
 *  - fib_validate_source() reads rp_filter and src_valid_mark of the input device, whose change
 *    shows nowhere;
 *  - the choice among next hops may depend on more than the flow (compat.h,
 *    ctc_multipath4_by_flow()).
 */
#include <linux/inetdevice.h>
#include <linux/rtnetlink.h>
#include <net/arp.h>
#include <net/dst.h>
#include <net/ip.h>
#include <net/ip6_fib.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/lwtunnel.h>

#include "ctc.h"

/* Under RCU. */
bool ctc_src_vmark(struct net *net, int ifindex)
{
	const struct net_device *dev = dev_get_by_index_rcu(net, ifindex);
	struct in_device *in_dev = dev ? __in_dev_get_rcu(dev) : NULL;

	return in_dev && IN_DEV_SRC_VMARK(in_dev);
}

bool ctc_multipath_by_flow(const struct ctc_net *cn, const struct sk_buff *skb, u8 family)
{
	if (READ_ONCE(cn->resilient))
		return false;
	if (family == AF_INET)
		return ctc_multipath4_by_flow(cn->net, skb->l4_hash);
	return ctc_multipath6_by_flow(cn->net, skb->l4_hash, ip6_flowlabel(ipv6_hdr(skb)));
}

/* Whether the packet does not go on from here. */
static bool ctc_route_local(const struct dst_entry *dst, u8 family)
{
#if CTC_IPV6
	if (family == AF_INET6)
		return dst_rt6_info(dst)->rt6i_flags & (RTF_LOCAL | RTF_ANYCAST | RTF_REJECT);
#endif
	return container_of(dst, struct rtable, dst)->rt_type != RTN_UNICAST;
}

/*
 * Completes the key with what the lookup has told the packet. Returns whether the answer stands for
 * all packets that have this key.
 */
bool ctc_route_found(const struct ctc_net *cn, const struct sk_buff *skb, struct ctc_key *key)
{
	key->local = ctc_route_local(skb_dst(skb), key->family);
	if (key->family == AF_INET) {
		key->flags = IPCB(skb)->flags & IPSKB_MULTIPATH;
		/* Redirects are sent for each packet. */
		if (IPCB(skb)->flags & IPSKB_DOREDIRECT)
			return false;
	} else {
		key->flags = IP6CB(skb)->flags & IP6SKB_MULTIPATH;
	}
	key->multipath = !!key->flags;
	return likely(!key->multipath) || ctc_multipath_by_flow(cn, skb, key->family);
}

static bool ctc_keep4(const struct ctc_net *cn, const struct ctc_key *key, const struct rtable *rt)
{
	return rt_is_input_route(rt) && (!key->local || rt->rt_type == RTN_LOCAL) &&
	       !READ_ONCE(rt->rt_uncached_list) && rt->rt_genid == rt_genid_ipv4(cn->net);
}

#if CTC_IPV6
/*
 * The route behind a dst if its lifetime may be changed without a word by whoever receives an
 * advertisement (ndisc.c, addrconf.c), or NULL.
 */
static struct fib6_info *ctc_expiring6(const struct rt6_info *rt)
{
	struct fib6_info *from = rcu_dereference(rt->from);

	return from && (from->fib6_flags & RTF_EXPIRES || from->fib6_protocol == RTPROT_KERNEL ||
			from->fib6_protocol == RTPROT_RA)
		       ? from
		       : NULL;
}

static bool ctc_keep6(const struct ctc_net *cn, const struct rt6_info *rt, struct fib6_info **f6i)
{
	if (!rcu_access_pointer(rt->from) || rt->rt6i_flags & (RTF_REJECT | RTF_ANYCAST) ||
	    !(rt->rt6i_flags & (RTF_PCPU | RTF_CACHE)) || READ_ONCE(rt->rt6i_uncached_list) ||
	    !READ_ONCE(cn->net->ipv6.devconf_all->forwarding))
		return false;
	*f6i = ctc_expiring6(rt);
	return true;
}
#endif

/*
 * Whether @dst, which a lookup for @key has just found, may be kept; *f6i is what the decision must
 * hold besides. Under RCU.
 */
bool ctc_route_keep(const struct ctc_net *cn, const struct ctc_key *key,
		    const struct dst_entry *dst, struct fib6_info **f6i)
{
	const struct net_device *dev = READ_ONCE(dst->dev);

	*f6i = NULL;
	if (dst->error || dst->lwtstate || ctc_dst_has_xfrm(dst) || !ctc_dst_current(dst))
		return false;
	/* Redirects are sent for each packet; without a link, a sysctl counts (netconf.c). */
	if (dev->ifindex == key->iif || !netif_carrier_ok(dev))
		return false;
	if (key->family == AF_INET)
		return ctc_keep4(cn, key, container_of(dst, struct rtable, dst));
#if CTC_IPV6
	return ctc_keep6(cn, dst_rt6_info(dst), f6i);
#else
	return false;
#endif
}

/*
 * IPv6 has a dst for every route and CPU, though thousands of routes lead to the same next hop.
 * Whether one may stand for the other: no packet can tell (device, next hop, metrics, flags), and
 * nobody updates the route behind it through the packet. The latter is done by drivers that keep
 * the dst (tunnels, netif_keep_dst()), which report a path MTU to it. @a is of a decision that
 * holds no route.
 */
bool ctc_route_shared(const struct dst_entry *a, const struct dst_entry *b)
{
#if CTC_IPV6
	const struct rt6_info *x = dst_rt6_info(a), *y = dst_rt6_info(b);

	return a->dev == b->dev && a->input == b->input && a->output == b->output &&
	       a->flags == b->flags && a->_metrics == b->_metrics &&
	       !((x->rt6i_flags ^ y->rt6i_flags) & ~RTF_PCPU) &&
	       !(x->rt6i_flags & (RTF_CACHE | RTF_LOCAL)) && x->rt6i_idev == y->rt6i_idev &&
	       ipv6_addr_equal(&x->rt6i_gateway, &y->rt6i_gateway) &&
	       a->dev->priv_flags & IFF_XMIT_DST_RELEASE && !ctc_expiring6(y);
#else
	return false;
#endif
}

/* Equal for dsts that are equal or shared. */
u64 ctc_route_hash(const struct dst_entry *dst, u8 family)
{
#if CTC_IPV6
	const struct rt6_info *rt = dst_rt6_info(dst);

	if (family == AF_INET6 && !(rt->rt6i_flags & (RTF_CACHE | RTF_LOCAL)))
		return (u64)ipv6_addr_hash(&rt->rt6i_gateway) << 32 | READ_ONCE(dst->dev)->ifindex;
#endif
	return (uintptr_t)dst;
}

void ctc_route_gateway(const struct dst_entry *dst, u8 family, const void **gateway, u32 *mtu)
{
	const struct rtable *rt = container_of(dst, struct rtable, dst);

	*gateway = NULL;
	*mtu = dst_mtu(dst);
	if (family == AF_INET) {
		if (rt->rt_gw_family == AF_INET)
			*gateway = &rt->rt_gw4;
#if CTC_IPV6
	} else if (dst_rt6_info(dst)->rt6i_flags & RTF_GATEWAY) {
		*gateway = &dst_rt6_info(dst)->rt6i_gateway;
#endif
	}
}

/* Whether two dsts send a packet the same way (proof mode; the objects may differ). */
bool ctc_route_same(const struct dst_entry *a, const struct dst_entry *b, u8 family)
{
	const void *via_a, *via_b;
	u32 mtu_a, mtu_b;

	if (a == b)
		return true;
	ctc_route_gateway(a, family, &via_a, &mtu_a);
	ctc_route_gateway(b, family, &via_b, &mtu_b);
	return a->dev == b->dev && a->input == b->input && a->output == b->output &&
	       a->error == b->error && mtu_a == mtu_b && !via_a == !via_b &&
	       (!via_a || !memcmp(via_a, via_b,
				  family == AF_INET ? sizeof(__be32) : sizeof(struct in6_addr)));
}

#if CTC_IPV6
/*
 * As ip6_route_input() does it, which is not exported. Nor is rt6_multipath_hash(), which hashes a
 * flow label in the byte order of whoever dissected the packet: where rules ask for ports, and only
 * for ICMPv6, it is another one than fib6_select_path() takes. That choice is left to the stack.
 */
static bool ctc_lookup6(struct sk_buff *skb)
{
	const struct ipv6hdr *iph = ipv6_hdr(skb);
	struct net *net = dev_net(skb->dev);
	struct flow_keys keys;
	struct flowi6 fl6 = {
		.flowi6_iif = skb->dev->ifindex,
		.daddr = iph->daddr,
		.saddr = iph->saddr,
		.flowlabel = ip6_flowinfo(iph),
		.flowi6_mark = skb->mark,
		.flowi6_proto = iph->nexthdr,
	};

	bool dissected = fib6_rules_early_flow_dissect(net, skb, &fl6, &keys);

	skb_dst_set_noref(skb,
			  ip6_route_input_lookup(net, skb->dev, &fl6, skb,
						 RT6_LOOKUP_F_HAS_SADDR | RT6_LOOKUP_F_DST_NOREF));
	return !(dissected && iph->nexthdr == IPPROTO_ICMPV6 && ip6_flowlabel(iph) &&
		 IP6CB(skb)->flags & IP6SKB_MULTIPATH);
}
#endif

/* Looks the packet up and gives it the dst. False: the stack's to look up. Under RCU. */
bool ctc_route_lookup(struct sk_buff *skb, u8 family)
{
	const struct iphdr *iph = ip_hdr(skb);
	struct net_device *dev = skb->dev;

	if (family == AF_INET) {
		/* On a VRF the device that received it is not the packet's any more. */
		if (netif_is_l3_master(dev))
			dev = dev_get_by_index_rcu(dev_net(dev), IPCB(skb)->iif);
		return dev && !ip_route_input_noref(skb, iph->daddr, iph->saddr, iph->tos, dev);
	}
#if CTC_IPV6
	return ctc_lookup6(skb);
#else
	return false;
#endif
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every test of a kernel version or option, and nowhere else one.
 *
 * The reference is Debian 12's 6.1. What later kernels call differently gets 6.1's name here.
 */
#ifndef _CTCACHE_COMPAT_H
#define _CTCACHE_COMPAT_H

#include <linux/version.h>
#include <net/ip6_fib.h>
#include <net/ip6_route.h>
#include <net/netfilter/nf_conntrack_act_ct.h>
#include <net/netfilter/nf_conntrack_labels.h>
#include <net/route.h>
#include <net/udp.h>

#if KERNEL_VERSION(6, 1, 0) > LINUX_VERSION_CODE
#error "nf_ctcache needs Linux 6.1 or later"
#endif

/*
 * Debian builds its kernels with all of these; a cache without conntrack's zones or IPv4 has no
 * purpose.
 */
#if !IS_ENABLED(CONFIG_NF_CONNTRACK_ZONES)
#error "nf_ctcache needs CONFIG_NF_CONNTRACK_ZONES"
#endif

#if IS_ENABLED(CONFIG_IPV6)
#define CTC_IPV6 1
#else
#define CTC_IPV6 0
#endif

#ifdef CONFIG_XFRM
#define CTC_XFRM 1
#else
#define CTC_XFRM 0
#endif

static inline bool ctc_has_act_ct(void)
{
	return IS_ENABLED(CONFIG_NET_ACT_CT);
}

static inline bool ctc_has_labels(void)
{
	return IS_ENABLED(CONFIG_NF_CONNTRACK_LABELS);
}

/* The act_ct extension, or NULL. */
static inline void *ctc_act_ct_find(const struct nf_conn *ct)
{
#if IS_ENABLED(CONFIG_NET_ACT_CT)
	return nf_ct_ext_find(ct, NF_CT_EXT_ACT_CT);
#else
	return NULL;
#endif
}

static inline void *ctc_act_ct_add(struct nf_conn *ct)
{
#if IS_ENABLED(CONFIG_NET_ACT_CT)
	return nf_ct_ext_add(ct, NF_CT_EXT_ACT_CT, GFP_ATOMIC);
#else
	return NULL;
#endif
}

static inline bool ctc_dst_has_xfrm(const struct dst_entry *dst)
{
#ifdef CONFIG_XFRM
	return dst->xfrm;
#else
	return false;
#endif
}

/* Namespaces may have a table of their own from 6.2 on. */
static inline struct udp_table *ctc_udp_table(const struct net *net)
{
#if KERNEL_VERSION(6, 2, 0) > LINUX_VERSION_CODE
	return &udp_table;
#else
	return net->ipv4.udp_table;
#endif
}

/* Whether the choice among several next hops depends on the flow's addresses and ports alone. */
static inline bool ctc_multipath4_by_flow(const struct net *net, bool l4_hash)
{
#ifdef CONFIG_IP_ROUTE_MULTIPATH
	u8 policy = READ_ONCE(net->ipv4.sysctl_fib_multipath_hash_policy);

	if (READ_ONCE(net->ipv4.sysctl_fib_multipath_use_neigh))
		return false;
	return policy == 0 || (policy == 1 && !l4_hash);
#else
	return true;
#endif
}

static inline bool ctc_multipath6_by_flow(const struct net *net, bool l4_hash, bool flow_label)
{
#if CTC_IPV6
	u8 policy = READ_ONCE(net->ipv6.sysctl.multipath_hash_policy);

	return (policy == 0 && !flow_label) || (policy == 1 && !l4_hash);
#else
	return false;
#endif
}

#endif

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The way of a packet to its socket, as short as it can be: every packet of a flow that has a hint
 * takes it. The model is at the head of socket.c.
 */
#ifndef _CTC_SOCKET_H
#define _CTC_SOCKET_H

#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/l3mdev.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "ctc.h"

/* What of a packet the stack compares with a socket. */
struct ctc_wanted {
	struct net *net;
	__portpair ports;
	int dif, sdif;
	u16 port; /* destination, host order */
	u8 family;
};

/* The ports are in front for both protocols. False: the stack would have to pull the header. */
static __always_inline bool ctc_wanted(struct net *net, const struct sk_buff *skb, u8 family,
				       u8 protocol, struct ctc_wanted *wanted)
{
	const struct udphdr *ports = udp_hdr(skb);
	const struct tcphdr *tcp = tcp_hdr(skb);

	if (protocol == IPPROTO_TCP ? unlikely((u8 *)(tcp + 1) > skb_tail_pointer(skb) ||
					       tcp->doff < sizeof(*tcp) / 4)
				    : unlikely((u8 *)(ports + 1) > skb_tail_pointer(skb)))
		return false;
	wanted->net = net;
	wanted->family = family;
	wanted->port = ntohs(ports->dest);
	wanted->ports = INET_COMBINED_PORTS(ports->source, wanted->port);
	wanted->sdif = family == AF_INET ? inet_sdif(skb) : inet6_sdif(skb);
	if (protocol == IPPROTO_UDP)
		wanted->dif = skb->dev->ifindex;
	else
		wanted->dif = family == AF_INET ? skb->skb_iif : inet6_iif(skb);
	return true;
}

static __always_inline bool ctc_match(const struct sk_buff *skb, const struct sock *sk,
				      const struct ctc_wanted *wanted)
{
	if (wanted->family == AF_INET) {
		INET_ADDR_COOKIE(addresses, ip_hdr(skb)->saddr, ip_hdr(skb)->daddr);

		return inet_match(wanted->net, sk, addresses, wanted->ports, wanted->dif,
				  wanted->sdif);
	}
#if CTC_IPV6
	return inet6_match(wanted->net, sk, &ipv6_hdr(skb)->saddr, &ipv6_hdr(skb)->daddr,
			   wanted->ports, wanted->dif, wanted->sdif);
#else
	return false;
#endif
}

/*
 * As __inet_lookup_established() and its brother do it, who compare before they take the reference
 * and after it: where the hash is the same and the socket is not, the packet is left to them.
 */
static __always_inline struct sock *ctc_tcp_at(const struct sk_buff *skb, u32 hint,
					       const struct ctc_wanted *wanted)
{
	struct inet_hashinfo *table = wanted->net->ipv4.tcp_death_row.hashinfo;
	const struct hlist_nulls_node *node;
	struct sock *sk;

	sk_nulls_for_each_rcu(sk, node, &inet_ehash_bucket(table, hint)->chain) {
		if ((sk->sk_hash ^ hint) & ~CTC_HINT)
			continue;
		if (unlikely(!refcount_inc_not_zero(&sk->sk_refcnt)))
			return NULL;
		if (likely(!hlist_nulls_unhashed_lockless(&sk->sk_nulls_node) &&
			   ctc_match(skb, sk, wanted)))
			return sk;
		sock_gen_put(sk);
		return NULL;
	}
	return NULL;
}

/* As __udp4_lib_demux_lookup() and its brother do it: the first in its slot, or none. */
static __always_inline struct sock *ctc_udp_at(const struct sk_buff *skb, u32 hint,
					       const struct ctc_wanted *wanted)
{
	const struct udp_table *table = ctc_udp_table(wanted->net);
	const struct hlist_head *slot = &table->hash2[hint & table->mask].head;
	struct sock *sk = hlist_entry_safe(rcu_dereference(hlist_first_rcu(slot)), struct sock,
					   __sk_common.skc_portaddr_node);

	if (!sk || (wanted->family == AF_INET6 && sk->sk_state != TCP_ESTABLISHED))
		return NULL;
	return ctc_match(skb, sk, wanted) ? sk : NULL;
}

static __always_inline u8 ctc_protocol(const struct sk_buff *skb, u8 family)
{
	return family == AF_INET ? ip_hdr(skb)->protocol : ipv6_hdr(skb)->nexthdr;
}

static __always_inline bool ctc_demuxed(const struct net *net, u8 protocol)
{
	if (!READ_ONCE(net->ipv4.sysctl_ip_early_demux))
		return false;
	if (protocol == IPPROTO_TCP)
		return READ_ONCE(net->ipv4.sysctl_tcp_early_demux);
	return protocol == IPPROTO_UDP && READ_ONCE(net->ipv4.sysctl_udp_early_demux);
}

/* The route that the socket keeps of what it received. */
static __always_inline void ctc_socket_dst(const struct net *net, struct sk_buff *skb,
					   const struct sock *sk, u8 protocol, u8 family)
{
	struct dst_entry *dst = rcu_dereference(sk->sk_rx_dst);

	if (!dst)
		return;
	if (family != AF_INET) {
		dst = dst_check(dst, sk->sk_rx_dst_cookie);
		if (!dst)
			return;
	} else if (dst->obsolete != DST_OBSOLETE_FORCE_CHK || dst->ops->family != AF_INET ||
		   container_of(dst, struct rtable, dst)->rt_genid != rt_genid_ipv4(net)) {
		/* As ipv4_dst_check(), which is far away; sockets may change their family. */
		return;
	}
	if (protocol == IPPROTO_UDP || sk->sk_rx_dst_ifindex == skb->skb_iif)
		skb_dst_set_noref(skb, dst);
}

/*
 * Does to the packet what early demux would (tcp_v4_early_demux(), udp_v4_early_demux() and their
 * brothers), if the hint still leads to its socket.
 */
static __always_inline bool ctc_demux(struct ctc_net *cn, const struct ctc_config *config,
				      struct sk_buff *skb, const struct nf_conn *ct, u32 hint,
				      u8 family)
{
	u32 slot = ctc_slot(config, ct);
	u8 protocol = ctc_protocol(skb, family);
	struct ctc_wanted wanted;
	struct sock *sk;

	if (unlikely(!ctc_fresh(skb) || netif_is_l3_slave(skb->dev)) ||
	    unlikely(!(config->zone[slot].kinds & CTCACHE_KIND_SOCKET)) ||
	    unlikely(!ctc_demuxed(cn->net, protocol)))
		return false;
	if (unlikely(config->proof) && ctc_proof_due(cn, config->proof)) {
		ctc_socket_prove(cn, skb, hint, family);
		goto hit;
	}
	if (unlikely(!ctc_wanted(cn->net, skb, family, protocol, &wanted)))
		return false;
	if (protocol == IPPROTO_TCP) {
		sk = ctc_tcp_at(skb, hint, &wanted);
		if (unlikely(!sk))
			return false;
		skb->destructor = sock_edemux;
	} else {
		sk = ctc_udp_at(skb, hint, &wanted);
		if (unlikely(!sk || !sock_flag(sk, SOCK_RCU_FREE)))
			return false;
		skb->destructor = sock_pfree;
	}
	skb->sk = sk;
	if (protocol == IPPROTO_UDP || likely(sk_fullsock(sk)))
		ctc_socket_dst(cn->net, skb, sk, protocol, family);
hit:
	config->counters[raw_smp_processor_id()][slot].hits++;
	return true;
}

#endif

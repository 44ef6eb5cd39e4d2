// SPDX-License-Identifier: GPL-2.0
/*
 * Local sockets: who receives a packet, asked before its route and for the descriptor.
 *
 * The stack looks for the socket first (early demux, ip_rcv_finish_core(), ip6_rcv_finish_core())
 * and takes the route from it. It finds those of TCP, and of UDP the connected ones; what goes to
 * an unconnected UDP socket (DNS, WireGuard, VXLAN) costs it that question and a route lookup.
 *
 * Of a socket nothing is kept: no event tells that one was connected, bound or closed. What is kept
 * is where the stack would look: a *hint*, the hash of the flow's addresses and ports, which a flow
 * has in place of a number. The hook looks there by the stack's own rules, so a socket that comes,
 * goes or is replaced is seen at once, and a wrong hint finds nothing. What it saves is the hashing
 * and the way there. For unconnected sockets the route is cached; a connected one that came later
 * is what the stack would take first, so the place is looked at there, too.
 *
 * Contexts: as the hooks. References: the packet owns the one on its TCP socket, as after early
 * demux. UDP sockets are freed after a grace period (SOCK_RCU_FREE), so it borrows them as newer
 * kernels do, and so do packets to which a BPF program has assigned one: skb_steal_sock() and
 * nf_queue() know of it by sock_pfree(). The dst is the socket's, borrowed, too.
 */
#include "socket.h"

static u32 ctc_udp_hint(const struct sk_buff *skb, const struct ctc_wanted *wanted)
{
#if CTC_IPV6
	if (wanted->family == AF_INET6)
		return ipv6_portaddr_hash(wanted->net, &ipv6_hdr(skb)->daddr, wanted->port);
#endif
	return ipv4_portaddr_hash(wanted->net, ip_hdr(skb)->daddr, wanted->port);
}

/* Whether the stack looks for a socket before it looks for the route. */
bool ctc_socket_asked(const struct net *net, const struct sk_buff *skb, u8 family)
{
	return ctc_demuxed(net, ctc_protocol(skb, family));
}

/*
 * Whether the stack would ask for the socket of a packet that is delivered here before its route,
 * and find one; with TCP, whether it would ask. Under RCU.
 */
bool ctc_socket_first(struct net *net, const struct sk_buff *skb, u8 family)
{
	u8 protocol = ctc_protocol(skb, family);
	struct ctc_wanted wanted;

	if (!ctc_demuxed(net, protocol))
		return false;
	return protocol == IPPROTO_TCP || !ctc_wanted(net, skb, family, protocol, &wanted) ||
	       ctc_udp_at(skb, ctc_udp_hint(skb, &wanted), &wanted);
}

/* What the tuples of one direction say of the packets that arrive. */
struct ctc_ends {
	const union nf_inet_addr *source, *destination;
	__be16 sport, dport;
	int dif, sdif;
};

static struct ctc_ends ctc_ends(const struct nf_conn *ct, enum ip_conntrack_dir dir, int dif,
				int sdif)
{
	return (struct ctc_ends){
		.source = &ct->tuplehash[dir].tuple.src.u3,
		.destination = &ct->tuplehash[!dir].tuple.src.u3,
		.sport = ct->tuplehash[dir].tuple.src.u.all,
		.dport = ct->tuplehash[!dir].tuple.src.u.all,
		.dif = dif,
		.sdif = sdif,
	};
}

/* With a reference. */
static struct sock *ctc_tcp_socket(struct net *net, const struct ctc_ends *at, u8 family)
{
	struct inet_hashinfo *table = net->ipv4.tcp_death_row.hashinfo;

	if (family == AF_INET)
		return __inet_lookup_established(net, table, at->source->ip, at->sport,
						 at->destination->ip, ntohs(at->dport), at->dif,
						 at->sdif);
#if CTC_IPV6
	return __inet6_lookup_established(net, table, &at->source->in6, at->sport,
					  &at->destination->in6, ntohs(at->dport), at->dif,
					  at->sdif);
#else
	return NULL;
#endif
}

/* Where the stack finds a socket before it looks for the route, or 0: none. Under RCU. */
u32 ctc_socket_hint(struct net *net, const struct sk_buff *skb, const struct nf_conn *ct,
		    enum ip_conntrack_dir dir, u8 family)
{
	u8 protocol = nf_ct_protonum(ct);
	struct ctc_wanted wanted;
	struct ctc_ends at;
	struct sock *sk;
	u32 hint;

	if (!ctc_wanted(net, skb, family, protocol, &wanted))
		return 0;
	if (protocol == IPPROTO_UDP) {
		hint = ctc_udp_hint(skb, &wanted) | CTC_HINT;
		return ctc_udp_at(skb, hint, &wanted) ? hint : 0;
	}
	at = ctc_ends(ct, dir, wanted.dif, wanted.sdif);
	sk = ctc_tcp_socket(net, &at, family);
	if (!sk)
		return 0;
	hint = sk->sk_hash | CTC_HINT;
	sock_gen_put(sk);
	return hint;
}

/*
 * Whether the hint leads to no other socket than the stack would find. Where it leads is read
 * again if they differ: sockets may have come and gone.
 */
static bool ctc_socket_proved(struct net *net, const struct sk_buff *skb, u32 hint, u8 family)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	u8 protocol = nf_ct_protonum(ct);
	struct ctc_wanted wanted;
	struct sock *sk;

	if (ctc_socket_hint(net, skb, ct, CTINFO2DIR(ctinfo), family) == hint ||
	    !ctc_wanted(net, skb, family, protocol, &wanted))
		return true;
	if (protocol == IPPROTO_UDP)
		return !ctc_udp_at(skb, hint, &wanted);
	sk = ctc_tcp_at(skb, hint, &wanted);
	if (sk)
		sock_gen_put(sk);
	return !sk;
}

/* Proof mode: the packet is left to the stack, which asks itself. */
void ctc_socket_prove(struct ctc_net *cn, const struct sk_buff *skb, u32 hint, u8 family)
{
	ctc_count(cn, CTCACHE_STAT_PROOFS);
	if (ctc_socket_proved(cn->net, skb, hint, family))
		return;
	ctc_count(cn, CTCACHE_STAT_MISMATCHES);
	pr_warn_once("a flow's hint leads to another socket than a new lookup\n");
}

/* Without a reference. */
static struct sock *ctc_udp_socket(struct net *net, const struct ctc_ends *at, u8 family)
{
	struct udp_table *table = ctc_udp_table(net);

	if (family == AF_INET)
		return __udp4_lib_lookup(net, at->source->ip, at->sport, at->destination->ip,
					 at->dport, at->dif, at->sdif, table, NULL);
#if CTC_IPV6
	return __udp6_lib_lookup(net, &at->source->in6, at->sport, &at->destination->in6, at->dport,
				 at->dif, at->sdif, table, NULL);
#else
	return NULL;
#endif
}

/*
 * The socket that receives a direction's packets, which arrive by @ifindex (0: not known): its
 * inode, 0 if no process has it, and its owner. Listening TCP sockets are none. Under RCU, any
 * context but hard interrupts.
 */
bool ctc_socket_owner(struct net *net, const struct nf_conn *ct, enum ip_conntrack_dir dir,
		      int ifindex, u64 *inode, u32 *uid)
{
	int master = ifindex ? l3mdev_master_ifindex_by_index(net, ifindex) : 0;
	struct ctc_ends at =
		ctc_ends(ct, dir, master ?: ifindex, master && master != ifindex ? ifindex : 0);
	u8 family = nf_ct_l3num(ct), protocol = nf_ct_protonum(ct);
	struct sock *sk;
	bool found;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return false;
	sk = protocol == IPPROTO_TCP ? ctc_tcp_socket(net, &at, family)
				     : ctc_udp_socket(net, &at, family);
	found = sk && sk_fullsock(sk);
	if (found) {
		*inode = sock_i_ino(sk);
		*uid = from_kuid_munged(net->user_ns, sock_i_uid(sk));
	}
	if (sk && protocol == IPPROTO_TCP)
		sock_gen_put(sk);
	return found;
}

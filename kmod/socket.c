// SPDX-License-Identifier: GPL-2.0
/*
 * Local sockets: who receives a packet, asked before its route and for the descriptor.
 *
 * The stack looks for the socket first (early demux, ip_rcv_finish_core(), ip6_rcv_finish_core())
 * and takes the route from it. It finds those of TCP, and of UDP the connected ones; what goes to
 * an unconnected UDP socket (DNS, WireGuard, VXLAN) costs it that question and a route lookup.
 * Only the latter is cached. Of a socket nothing is kept: no event tells that one was connected,
 * bound or closed, and the answer is one probe of a hash table, which is what comparing a stored
 * one with the packet would cost. So the stack's own question is asked here, of its own table, and
 * where it has an answer, the packet is left to the stack.
 */
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/l3mdev.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/tcp.h>
#include <net/udp.h>

#include "ctc.h"

/* As __udp4_lib_demux_lookup() and its brother do it: the first in its slot, or none. */
static bool ctc_udp_connected(struct net *net, const struct sk_buff *skb, u8 family)
{
	const struct udp_table *table = ctc_udp_table(net);
	const struct hlist_head *slot;
	const struct udphdr *header;
	struct udphdr copy;
	__portpair ports;
	struct sock *sk;
	u32 hash;

	header = skb_header_pointer(skb, skb_transport_offset(skb), sizeof(copy), &copy);
	if (!header)
		return true;
	ports = INET_COMBINED_PORTS(header->source, ntohs(header->dest));
	if (family == AF_INET)
		hash = ipv4_portaddr_hash(net, ip_hdr(skb)->daddr, ntohs(header->dest));
#if CTC_IPV6
	else
		hash = ipv6_portaddr_hash(net, &ipv6_hdr(skb)->daddr, ntohs(header->dest));
#endif
	slot = &table->hash2[hash & table->mask].head;
	sk = hlist_entry_safe(rcu_dereference(hlist_first_rcu(slot)), struct sock,
			      __sk_common.skc_portaddr_node);
	if (!sk)
		return false;
	if (family == AF_INET) {
		INET_ADDR_COOKIE(addresses, ip_hdr(skb)->saddr, ip_hdr(skb)->daddr);

		return inet_match(net, sk, addresses, ports, skb->dev->ifindex, inet_sdif(skb));
	}
#if CTC_IPV6
	return sk->sk_state == TCP_ESTABLISHED &&
	       inet6_match(net, sk, &ipv6_hdr(skb)->saddr, &ipv6_hdr(skb)->daddr, ports,
			   skb->dev->ifindex, inet6_sdif(skb));
#else
	return true;
#endif
}

/*
 * Whether the stack would ask for the socket of a packet that is delivered here before its route,
 * and find one; with TCP, and unless @udp, whether it would ask. Under RCU.
 */
bool ctc_socket_first(struct net *net, const struct sk_buff *skb, u8 family, bool udp)
{
	u8 protocol = family == AF_INET ? ip_hdr(skb)->protocol : ipv6_hdr(skb)->nexthdr;

	if (!READ_ONCE(net->ipv4.sysctl_ip_early_demux))
		return false;
	if (protocol == IPPROTO_TCP)
		return READ_ONCE(net->ipv4.sysctl_tcp_early_demux);
	if (protocol != IPPROTO_UDP || !READ_ONCE(net->ipv4.sysctl_udp_early_demux))
		return false;
	return !udp || ctc_udp_connected(net, skb, family);
}

/* What the tuples of one direction say of the packets that arrive. */
struct ctc_ends {
	const union nf_inet_addr *source, *destination;
	__be16 sport, dport;
	int dif, sdif;
};

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
	const struct nf_conntrack_tuple *own = &ct->tuplehash[dir].tuple;
	const struct nf_conntrack_tuple *opposite = &ct->tuplehash[!dir].tuple;
	int master = ifindex ? l3mdev_master_ifindex_by_index(net, ifindex) : 0;
	struct ctc_ends at = {
		.source = &own->src.u3,
		.destination = &opposite->src.u3,
		.sport = own->src.u.all,
		.dport = opposite->src.u.all,
		.dif = master ?: ifindex,
		.sdif = master && master != ifindex ? ifindex : 0,
	};
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

// SPDX-License-Identifier: GPL-2.0
/*
 * The hooks: where packets use decisions, and where flows learn them.
 *
 * The one that matters is last in PRE_ROUTING, so that marks and translation are final. A packet of
 * an established flow that has a valid number is given its decision's dst, and the stack looks
 * nothing up (ip_rcv_finish_core(), ip6_rcv_finish_core()). Any doubt is a miss. After a miss the
 * hook looks the packet up as the stack would do next, and learns what it finds: so the epoch under
 * which it learns was read before the lookup, and nothing has to be remembered until a later hook.
 * The answer stays with the packet, which costs it no second lookup; where the stack would have
 * found a socket first (socket.c), it is taken away again, and the flow learns where that was.
 * Where sockets are not cached, the flow is left to the stack until the next epoch: its number says
 * so by index 0, which no decision has.
 */
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <net/inet_ecn.h>
#include <net/dsfield.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/l3mdev.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/xfrm.h>

#include "ctc.h"
#include "socket.h"

#define CTC_DSCP_MASK 0xfc

/* What a packet takes of a decision. */
struct ctc_hit {
	struct dst_entry *dst;
	u16 zone;
	u16 flags;
};

/*
 * The input device of the lookup when layer 3 masters (VRF) are involved, or 0: the packet of a
 * slave comes again, on the master, and what IPsec has decrypted there comes twice (xfrm_input(),
 * then vrf_l3_rcv()).
 */
static noinline u32 ctc_l3mdev_iif(const struct sk_buff *skb, u8 family)
{
	if (netif_is_l3_slave(skb->dev) || secpath_exists(skb))
		return 0;
	/* IPv4 looks up for the slave even on the master's pass (ip_rcv_finish()). */
	return family == AF_INET ? IPCB(skb)->iif : skb->dev->ifindex;
}

/*
 * Whether the packet is of the kind whose lookup depends on its key and its flow alone; makes the
 * key if so. Not: on a VRF's slave, with options or extension headers.
 */
static __always_inline bool ctc_fit(const struct ctc_net *cn, const struct sk_buff *skb,
				    const struct nf_conn *ct, u8 family, struct ctc_key *key)
{
	const struct net_device *dev = skb->dev;

	if (!ctc_fresh(skb))
		return false;
	/* No rp_filter then, and other answers of policies. */
	if (secpath_exists(skb))
		key->input = CTC_INPUT_SECURED;
	key->mark = skb->mark;
	key->iif = dev->ifindex;
	if (unlikely(dev->priv_flags & (IFF_L3MDEV_MASTER | IFF_L3MDEV_SLAVE))) {
		key->iif = ctc_l3mdev_iif(skb, family);
		if (!key->iif)
			return false;
	}
	if (family == AF_INET) {
		const struct iphdr *iph = ip_hdr(skb);

		if (iph->ihl != sizeof(*iph) / 4)
			return false;
		key->dscp = iph->tos & CTC_DSCP_MASK;
		/* fib_validate_source() looks with the mark or without. */
		if (unlikely(key->mark) && ctc_src_vmark(cn->net, key->iif))
			key->input |= CTC_INPUT_VMARK;
	} else {
		const struct ipv6hdr *iph = ipv6_hdr(skb);

		if (iph->nexthdr != nf_ct_protonum(ct))
			return false;
		key->dscp = ipv6_get_dsfield(iph) & CTC_DSCP_MASK;
	}
	return true;
}

/*
 * Whether the addresses are those that the flow's translation gives here: the source of its own
 * tuple, and the source of the opposite one as destination. They are not when a nat table was
 * deleted in mid-flow.
 */
static __always_inline bool ctc_addressed(const struct sk_buff *skb, const struct nf_conn *ct,
					  enum ip_conntrack_dir dir, u8 family)
{
	const union nf_inet_addr *source = &ct->tuplehash[dir].tuple.src.u3;
	const union nf_inet_addr *destination = &ct->tuplehash[!dir].tuple.src.u3;

	if (family == AF_INET)
		return ip_hdr(skb)->saddr == source->ip && ip_hdr(skb)->daddr == destination->ip;
	return ipv6_addr_equal(&ipv6_hdr(skb)->saddr, &source->in6) &&
	       ipv6_addr_equal(&ipv6_hdr(skb)->daddr, &destination->in6);
}

/* Only the key's fields before the lookup. */
static __always_inline enum ctcache_miss ctc_key_differs(const struct ctc_key *a,
							 const struct ctc_key *b)
{
	if (unlikely(a->iif != b->iif))
		return CTCACHE_MISS_INPUT;
	if (unlikely(a->mark != b->mark))
		return CTCACHE_MISS_MARK;
	if (unlikely(a->dscp != b->dscp))
		return CTCACHE_MISS_DSCP;
	if (likely(a->input == b->input))
		return 0;
	return (a->input ^ b->input) & CTC_INPUT_SECURED ? CTCACHE_MISS_IPSEC : CTCACHE_MISS_SYSCTL;
}

/*
 * What the packet's flow knows of its lookup: 0 and *hit with its dst and flags, or why there is
 * nothing. Everything is in registers here, and nothing on the way to a hit is called.
 */
static __always_inline enum ctcache_miss ctc_lookup(struct ctc_net *cn, const struct sk_buff *skb,
						    const struct nf_conn *ct,
						    enum ip_conntrack_dir dir, u8 family,
						    u32 number, u32 epoch, struct ctc_hit *hit)
{
	const struct ctc_table *table = rcu_dereference(cn->table);
	u32 index = number & CTC_INDEX_MASK;
	const struct ctc_decision *d = &table->slot[index];
	struct ctc_key key = {};
	enum ctcache_miss miss;

	if (unlikely(number >> CTC_EPOCH_SHIFT != epoch))
		return number ? CTCACHE_MISS_EPOCH : CTCACHE_MISS_NONE;
	if (unlikely(index >= table->size || READ_ONCE(d->number) != number))
		return index ? CTCACHE_MISS_EPOCH : CTCACHE_MISS_SOCKET;
	smp_rmb(); /* pairs with ctc_insert(): the content of this number */
	if (unlikely(!ctc_fit(cn, skb, ct, family, &key)))
		return CTCACHE_MISS_UNFIT;
	if (unlikely(!ctc_addressed(skb, ct, dir, family)))
		return CTCACHE_MISS_ADDRESS;
	miss = ctc_key_differs(&d->key, &key);
	if (unlikely(miss))
		return miss;
	if (unlikely(key.input & CTC_INPUT_SECURED) && ctc_ipsec_state(skb) != d->state)
		return CTCACHE_MISS_IPSEC;
	miss = ctc_route_valid(cn, skb, d, family);
	if (unlikely(miss))
		return miss;
	if (unlikely(d->key.local) && ctc_socket_first(cn->net, skb, family))
		return CTCACHE_MISS_SOCKET;
	hit->dst = d->dst;
	hit->zone = d->key.zone;
	hit->flags = d->key.flags;
	smp_rmb(); /* pairs with ctc_fill(): and of no later one */
	return likely(READ_ONCE(d->number) == number) ? 0 : CTCACHE_MISS_EPOCH;
}

static __always_inline void ctc_set_flags(struct sk_buff *skb, u16 flags, u8 family)
{
	if (family == AF_INET)
		IPCB(skb)->flags |= flags;
	else
		IP6CB(skb)->flags |= flags;
}

/* Whether new lookups find what the decision says. Gives the packet the route that they find. */
static bool ctc_proved(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
		       enum ip_conntrack_dir dir, const struct ctc_decision *d, u8 family)
{
	struct ctc_key key = { .family = family, .iif = d->key.iif };
	struct ctc_found found = {};
	bool same;
	int err;

	if (!ctc_route_lookup(skb, family) || !ctc_route_same(skb_dst(skb), d->route, family))
		return false;
	if (!d->key.ipsec || !ctc_ipsec_asked(cn->net, skb, family))
		return true;
	found.route = skb_dst(skb);
	err = ctc_ipsec_found(cn, skb, ct, dir, &key, &found);
	same = err == -ENOENT || (!err && key.ipsec == d->key.ipsec &&
				  (!found.bundle || ctc_bundle_same(found.bundle, d->dst)));
	dst_release(found.bundle);
	return same;
}

/*
 * Proof mode. The slow answer wins: the route that the lookup finds, if any, is the packet's, and
 * the stack asks IPsec's policies.
 */
static noinline void ctc_prove(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
			       enum ip_conntrack_dir dir, u32 number, u8 family)
{
	struct ctc_decision d;

	ctc_count(cn, CTCACHE_STAT_PROOFS);
	if (!ctc_decision_read(cn, number, &d) || ctc_proved(cn, skb, ct, dir, &d, family))
		return;
	/* Unless there was a change between the two, or the lookup ended what had expired. */
	if (ctc_epoch(cn, family) != number >> CTC_EPOCH_SHIFT ||
	    ctc_route_valid(cn, skb, &d, family))
		return;
	ctc_count(cn, CTCACHE_STAT_MISMATCHES);
	pr_warn_once("a cached route differs from a new lookup (input %u, mark %#x)\n",
		     skb->dev->ifindex, skb->mark);
}

/* A packet of a new flow: gives its entry room for the numbers, if its zone caches such flows. */
static noinline void ctc_new_flow(struct ctc_net *cn, struct nf_conn *ct, u32 kinds)
{
	const struct ctc_config *config = rcu_dereference(cn->config);

	if (config->zone[ctc_slot(config, ct)].kinds & kinds &&
	    READ_ONCE(cn->state) != CTCACHE_STATE_LOST && !ctc_flow_add(ct, config->carrier))
		ctc_count(cn, CTCACHE_STAT_NO_CARRIER);
}

/* Gives the packet its decision's dst, so that the stack does not ask again what was just asked. */
static void ctc_take(struct ctc_net *cn, struct sk_buff *skb, u32 number, const struct ctc_key *key)
{
	const struct ctc_decision *d = &rcu_dereference(cn->table)->slot[number & CTC_INDEX_MASK];
	struct dst_entry *dst = d->dst;

	smp_rmb(); /* pairs with ctc_fill(): and of no later one */
	if (READ_ONCE(d->number) != number)
		return;
	skb_dst_drop(skb);
	skb_dst_set_noref(skb, dst);
	ctc_set_flags(skb, key->flags, key->family);
}

/*
 * Looks the packet up. 0, and the number of what was found, if it may be kept; -EPERM: a policy
 * drops the packet.
 */
static int ctc_learn(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
		     enum ip_conntrack_dir dir, u32 epoch, u32 kinds, struct ctc_key *key,
		     u32 *learned)
{
	struct ctc_found found = { .state = ctc_ipsec_state(skb) };
	bool keep;
	int err = 0;

	if (!ctc_route_lookup(skb, key->family)) {
		/* The stack's to find: mostly nothing, and it counts why. */
		skb_dst_drop(skb);
		return 0;
	}
	keep = ctc_route_found(cn, skb, key);
	if (key->local && ctc_socket_asked(cn->net, skb, key->family)) {
		*learned = kinds & CTCACHE_KIND_SOCKET
				   ? ctc_socket_hint(cn->net, skb, ct, dir, key->family)
				   : epoch << CTC_EPOCH_SHIFT;
		/* Of TCP without a socket yet (SYN cookies), the next packet may find one. */
		if (*learned || nf_ct_protonum(ct) == IPPROTO_TCP) {
			skb_dst_drop(skb);
			return 0;
		}
	}
	if (!keep) {
		ctc_count(cn, CTCACHE_STAT_REFUSED);
	} else {
		found.route = skb_dst(skb);
		if (kinds & CTCACHE_KIND_IPSEC && !key->local &&
		    ctc_ipsec_asked(cn->net, skb, key->family))
			err = ctc_ipsec_found(cn, skb, ct, dir, key, &found);
		if (!err)
			*learned = ctc_intern(cn, epoch, key, &found);
		if (*learned && key->ipsec)
			ctc_take(cn, skb, *learned, key);
		dst_release(found.bundle);
	}
	return err == -EPERM ? err : 0;
}

/* The packet goes the slow way, and its flow learns if the reason allows it. */
static noinline unsigned int ctc_missed(struct ctc_net *cn, struct sk_buff *skb,
					struct ctc_flow *flow, enum ctcache_miss miss, u8 family)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	enum ip_conntrack_dir dir = CTINFO2DIR(ctinfo);
	u32 epoch = ctc_epoch(cn, family);
	const struct ctc_config *config = rcu_dereference(cn->config);
	struct ctc_key key = { .family = family, .zone = ctc_slot(config, ct) };
	struct ctc_counters *count = ctc_zone_count(config, key.zone);
	u32 learned = 0, kinds = config->zone[key.zone].kinds;

	if (!ctc_fit(cn, skb, ct, family, &key) ||
	    (key.input & CTC_INPUT_SECURED && !ctc_ipsec_state(skb)))
		miss = CTCACHE_MISS_UNFIT;
	else if (!ctc_addressed(skb, ct, dir, family))
		miss = CTCACHE_MISS_ADDRESS;
	this_cpu_inc(cn->cpu->miss[miss]);
	count->misses++;
	if (miss == CTCACHE_MISS_UNFIT || miss == CTCACHE_MISS_ADDRESS ||
	    !(kinds & CTCACHE_KIND_ROUTE))
		return NF_ACCEPT;
	if (ctc_learn(cn, skb, ct, dir, epoch, kinds, &key, &learned)) {
		ctc_ipsec_drop(cn->net, skb, family);
		return NF_STOLEN;
	}
	if (learned && READ_ONCE(flow->number[dir]) != learned)
		WRITE_ONCE(flow->number[dir], learned);
	if (learned & (CTC_HINT | CTC_INDEX_MASK))
		count->learned++;
	return NF_ACCEPT;
}

static __always_inline unsigned int ctc_pre_routing(struct ctc_net *cn, struct sk_buff *skb,
						    u8 family)
{
	const struct ctc_config *config;
	enum ip_conntrack_info ctinfo;
	enum ip_conntrack_dir dir;
	enum ctcache_miss miss;
	struct ctc_hit hit;
	struct ctc_flow *flow;
	struct nf_conn *ct;
	u32 epoch, number;

	ct = nf_ct_get(skb, &ctinfo);
	if (unlikely(!ct))
		return NF_ACCEPT;
	if (unlikely(ctinfo != IP_CT_ESTABLISHED && ctinfo != IP_CT_ESTABLISHED_REPLY)) {
		if (ctinfo == IP_CT_NEW && !nf_ct_is_confirmed(ct))
			ctc_new_flow(cn, ct, CTC_KINDS);
		return NF_ACCEPT;
	}
	/* With many flows nobody has touched this line yet: it may come meanwhile. */
	prefetch(ct->ext);
	epoch = ctc_epoch(cn, family);
	if (unlikely(!epoch))
		return NF_ACCEPT;
	/* Only now: whoever sees an epoch must see the configuration that it began with. */
	config = rcu_dereference(cn->config);
	/* Nothing sweeps entries that are not in the table of all. */
	if (unlikely((READ_ONCE(ct->status) & (IPS_CONFIRMED | IPS_DYING)) != IPS_CONFIRMED))
		return NF_ACCEPT;
	dir = CTINFO2DIR(ctinfo);
	flow = ctc_flow_find(ct, config->carrier);
	if (!flow)
		return NF_ACCEPT;
	number = READ_ONCE(flow->number[dir]);
	if (number & CTC_HINT)
		return ctc_demux(cn, config, skb, ct, number, family)
			       ? NF_ACCEPT
			       : ctc_missed(cn, skb, flow, CTCACHE_MISS_SOCKET, family);
	miss = ctc_lookup(cn, skb, ct, dir, family, number, epoch, &hit);
	if (unlikely(miss)) {
		if (miss != CTCACHE_MISS_SOCKET || number & CTC_INDEX_MASK)
			return ctc_missed(cn, skb, flow, miss, family);
		this_cpu_inc(cn->cpu->miss[CTCACHE_MISS_SOCKET]);
		ctc_zone_count(config, ctc_slot(config, ct))->misses++;
		return NF_ACCEPT;
	}
	ctc_zone_count(config, hit.zone)->hits++;
	if (unlikely(hit.flags))
		ctc_set_flags(skb, hit.flags, family);
	if (unlikely(config->proof) && ctc_proof_due(cn, config->proof))
		ctc_prove(cn, skb, ct, dir, number, family);
	else
		skb_dst_set_noref(skb, hit.dst);
	return NF_ACCEPT;
}

static unsigned int ctc_pre_routing4(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *state)
{
	return ctc_pre_routing(priv, skb, AF_INET);
}

static unsigned int ctc_pre_routing6(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *state)
{
	return ctc_pre_routing(priv, skb, AF_INET6);
}

/* A packet of a program or tunnel on this machine: what answers comes to its socket. */
static unsigned int ctc_local_out(void *priv, struct sk_buff *skb,
				  const struct nf_hook_state *state)
{
	enum ip_conntrack_info ctinfo;
	struct nf_conn *ct = nf_ct_get(skb, &ctinfo);

	if (ct && ctinfo == IP_CT_NEW && !nf_ct_is_confirmed(ct) &&
	    !(state->out->flags & IFF_LOOPBACK))
		ctc_new_flow(priv, ct, CTCACHE_KIND_SOCKET);
	return NF_ACCEPT;
}

static const struct nf_hook_ops ctc_hooks[] = {
	{
		.hook = ctc_pre_routing4,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = INT_MAX,
	},
	{
		.hook = ctc_local_out,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = INT_MAX,
	},
#if CTC_IPV6
	{
		.hook = ctc_pre_routing6,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = INT_MAX,
	},
	{
		.hook = ctc_local_out,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = INT_MAX,
	},
#endif
};

/* Process context. */
int ctc_hooks_register(struct ctc_net *cn)
{
	int i, err;

	cn->hooks = kmemdup(ctc_hooks, sizeof(ctc_hooks), GFP_KERNEL_ACCOUNT);
	if (!cn->hooks)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(ctc_hooks); i++)
		cn->hooks[i].priv = cn;
	err = nf_register_net_hooks(cn->net, cn->hooks, ARRAY_SIZE(ctc_hooks));
	if (err) {
		kfree(cn->hooks);
		cn->hooks = NULL;
	}
	return err;
}

/* Process context. Packets may be in the hooks until a grace period is over. */
void ctc_hooks_unregister(struct ctc_net *cn)
{
	if (!cn->hooks)
		return;
	nf_unregister_net_hooks(cn->net, cn->hooks, ARRAY_SIZE(ctc_hooks));
	synchronize_net();
	kfree(cn->hooks);
	cn->hooks = NULL;
}

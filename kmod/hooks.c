// SPDX-License-Identifier: GPL-2.0
/*
 * Hooks: where packets use decisions, and where flows learn them.
 *
 * PRE_ROUTING, last of all, so that marks and translation are final: a packet of an established
 * flow that has a valid number is given its decision's dst, and the stack looks nothing up
 * (ip_rcv_finish_core(), ip6_rcv_finish_core()). Any doubt is a miss: the packet goes on without
 * a dst, as ever, and is remembered in a stash with the epoch that was read before its lookup.
 * FORWARD and LOCAL_IN, last of all: a packet that is in the stash tells what the stack found,
 * and its flow learns that.
 *
 * The stash belongs to the CPU. PRE_ROUTING and the learning hook run in one go, with bottom
 * halves off, so an entry cannot be taken for another packet's: whatever reaches PRE_ROUTING
 * clears the entry of its address, and packets that come another way (NFQUEUE gives them back in
 * process context) are not looked for. It has several entries because lists of packets
 * (netif_receive_skb_list()) go through PRE_ROUTING together before the first is looked up.
 */
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <net/inet_ecn.h>
#include <net/dsfield.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/l3mdev.h>
#include <linux/netfilter_bridge.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/xfrm.h>

#include "ctc.h"

#define CTC_DSCP_MASK 0xfc

static struct ctc_stash *ctc_stash(struct ctc_cpu *cpu, const struct sk_buff *skb)
{
	return &cpu->stash[hash_ptr(skb, CTC_STASH_BITS)];
}

static u32 ctc_slot(const struct ctc_config *config, const struct nf_conn *ct)
{
	return config->slot_of[nf_ct_zone(ct)->id];
}

/* Under RCU, on a CPU that stays. Slots of another configuration may be beyond this one's. */
static struct ctc_counters *ctc_zone_count(const struct ctc_config *config, u32 slot)
{
	return &config->counters[smp_processor_id()][slot < config->nr_zones ? slot : 0];
}

/*
 * Whether the packet is of the kind whose lookup depends on its key and its flow alone; makes the
 * key if so. Not: bridged (br_netfilter), decapsulated by IPsec (no rp_filter then), on a VRF's
 * slave (it comes again on the VRF), with a dst or socket already (loopback, tunnel metadata,
 * TPROXY), not for us on the link, with options or extension headers.
 */
static bool ctc_fit(const struct sk_buff *skb, const struct nf_conn *ct, u8 family,
		    struct ctc_key *key)
{
	struct net_device *dev = skb->dev;

	if (skb_dst(skb) || skb->sk || skb->pkt_type != PACKET_HOST || secpath_exists(skb) ||
	    nf_bridge_info_exists(skb) || netif_is_l3_slave(dev) || nf_ct_is_dying(ct))
		return false;
	key->mark = skb->mark;
	key->iif = dev->ifindex;
	if (family == AF_INET) {
		const struct iphdr *iph = ip_hdr(skb);

		if (iph->ihl != sizeof(*iph) / 4)
			return false;
		key->dscp = iph->tos & CTC_DSCP_MASK;
		/* IPv4 looks up for the slave even on the VRF's pass (ip_rcv_finish()). */
		if (netif_is_l3_master(dev)) {
			key->iif = IPCB(skb)->iif;
			dev = dev_get_by_index_rcu(dev_net(dev), key->iif);
			if (!dev)
				return false;
		}
		key->sysctl = ctc_sysctl4(dev);
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
static bool ctc_addressed(const struct sk_buff *skb, const struct nf_conn *ct,
			  enum ip_conntrack_dir dir, u8 family)
{
	const union nf_inet_addr *source = &ct->tuplehash[dir].tuple.src.u3;
	const union nf_inet_addr *destination = &ct->tuplehash[!dir].tuple.src.u3;

	if (family == AF_INET)
		return ip_hdr(skb)->saddr == source->ip && ip_hdr(skb)->daddr == destination->ip;
	return ipv6_addr_equal(&ipv6_hdr(skb)->saddr, &source->in6) &&
	       ipv6_addr_equal(&ipv6_hdr(skb)->daddr, &destination->in6);
}

/* Only the key's fields before the lookup; sysctl is of IPv4. In one go when they are equal. */
static enum ctcache_miss ctc_key_differs(const struct ctc_key *a, const struct ctc_key *b)
{
	if (likely(!((a->iif ^ b->iif) | (a->mark ^ b->mark) | (a->dscp ^ b->dscp) |
		     (a->sysctl ^ b->sysctl))))
		return 0;
	if (a->iif != b->iif)
		return CTCACHE_MISS_INPUT;
	if (a->mark != b->mark)
		return CTCACHE_MISS_MARK;
	return a->dscp != b->dscp ? CTCACHE_MISS_DSCP : CTCACHE_MISS_SYSCTL;
}

/* Sets the dst that @number stands for, or says why not. */
static enum ctcache_miss ctc_hit(struct ctc_net *cn, struct sk_buff *skb, u32 number,
				 const struct ctc_key *key, const struct ctc_decision **hit)
{
	struct ctc_table *table = rcu_dereference(cn->table);
	u32 index = number & CTC_INDEX_MASK;
	const struct ctc_decision *d = &table->slot[index];
	enum ctcache_miss miss;
	struct dst_entry *dst;
	u16 flags;

	if (unlikely(index >= table->size || READ_ONCE(d->number) != number))
		return CTCACHE_MISS_EPOCH;
	smp_rmb(); /* pairs with ctc_insert(): the content of this number */
	miss = ctc_key_differs(&d->key, key);
	if (unlikely(miss))
		return miss;
	miss = ctc_route_valid(cn, skb, d);
	if (unlikely(miss))
		return miss;
	dst = d->dst;
	flags = d->key.flags;
	smp_rmb(); /* pairs with ctc_fill(): and of no later one */
	if (unlikely(READ_ONCE(d->number) != number))
		return CTCACHE_MISS_EPOCH;
	skb_dst_set_noref(skb, dst);
	/* No hint of this choice for a list's next packet (ip_extract_route_hint()). */
	if (unlikely(flags)) {
		if (key->family == AF_INET)
			IPCB(skb)->flags |= flags;
		else
			IP6CB(skb)->flags |= flags;
	}
	*hit = d;
	return 0;
}

/* Proof mode. The slow answer wins: what the lookup finds, if anything, stays with the packet. */
static void ctc_prove(struct ctc_net *cn, struct sk_buff *skb, u32 epoch, const struct ctc_key *key)
{
	const struct dst_entry *cached = skb_dst(skb);

	skb_dst_drop(skb);
	ctc_count(cn, CTCACHE_STAT_PROOFS);
	if (likely(ctc_route_lookup(skb, key) && ctc_route_same(skb_dst(skb), cached, key->family)))
		return;
	/* Unless there was a change between the two. */
	if (ctc_epoch(cn, key->family) != epoch)
		return;
	ctc_count(cn, CTCACHE_STAT_MISMATCHES);
	pr_warn_once("a cached route differs from a new lookup (input %u, mark %#x)\n", key->iif,
		     key->mark);
}

static void ctc_missed(struct ctc_net *cn, struct ctc_cpu *cpu, const struct ctc_config *config,
		       u32 slot, enum ctcache_miss miss)
{
	cpu->miss[miss]++;
	ctc_zone_count(config, slot)->misses++;
}

/* A packet of a new flow: gives its entry room for the numbers, if its zone is to be cached. */
static void ctc_new_flow(struct ctc_net *cn, const struct ctc_config *config, struct nf_conn *ct)
{
	if (config->zone[ctc_slot(config, ct)].kinds &&
	    READ_ONCE(cn->state) != CTCACHE_STATE_LOST && !ctc_flow_add(ct, config->carrier))
		ctc_count(cn, CTCACHE_STAT_NO_CARRIER);
}

static __always_inline void ctc_pre_routing(struct ctc_net *cn, struct sk_buff *skb, u8 family)
{
	struct ctc_cpu *cpu = this_cpu_ptr(cn->cpu);
	struct ctc_stash *stash = ctc_stash(cpu, skb);
	const struct ctc_decision *d;
	const struct ctc_config *config = rcu_dereference(cn->config);
	struct ctc_key key = { .family = family };
	enum ip_conntrack_info ctinfo;
	enum ip_conntrack_dir dir;
	enum ctcache_miss miss;
	struct ctc_flow *flow;
	struct nf_conn *ct;
	u32 epoch, number;

	if (unlikely(stash->skb == skb))
		stash->skb = NULL;
	ct = nf_ct_get(skb, &ctinfo);
	if (unlikely(!ct))
		return;
	if (ctinfo != IP_CT_ESTABLISHED && ctinfo != IP_CT_ESTABLISHED_REPLY) {
		if (ctinfo == IP_CT_NEW && !nf_ct_is_confirmed(ct))
			ctc_new_flow(cn, config, ct);
		return;
	}
	dir = CTINFO2DIR(ctinfo);
	flow = ctc_flow_find(ct, config->carrier);
	if (!flow || !nf_ct_is_confirmed(ct))
		return;
	epoch = ctc_epoch(cn, family);
	if (unlikely(!epoch))
		return;
	/* Again: whoever sees an epoch must see the configuration that it began with. */
	config = rcu_dereference(cn->config);
	number = READ_ONCE(flow->number[dir]);
	if (unlikely(!ctc_fit(skb, ct, family, &key))) {
		miss = CTCACHE_MISS_UNFIT;
	} else if (unlikely(!ctc_addressed(skb, ct, dir, family))) {
		miss = CTCACHE_MISS_ADDRESS;
	} else {
		if (number >> CTC_EPOCH_SHIFT == epoch)
			miss = ctc_hit(cn, skb, number, &key, &d);
		else
			miss = number ? CTCACHE_MISS_EPOCH : CTCACHE_MISS_NONE;
		if (likely(!miss)) {
			ctc_zone_count(config, d->key.zone)->hits++;
			if (unlikely(config->proof) && !cpu->proof_left--) {
				cpu->proof_left = config->proof - 1;
				ctc_prove(cn, skb, epoch, &key);
			}
			return;
		}
		key.zone = ctc_slot(config, ct);
		if (config->zone[key.zone].kinds & CTCACHE_KIND_ROUTE) {
			stash->skb = skb;
			stash->ct = ct;
			stash->epoch = epoch;
			stash->key = key;
		}
	}
	ctc_missed(cn, cpu, config, ctc_slot(config, ct), miss);
}

static void ctc_learn(struct ctc_net *cn, struct ctc_stash *stash, const struct sk_buff *skb,
		      bool local)
{
	const struct ctc_config *config = rcu_dereference(cn->config);
	struct fib6_info *f6i;
	enum ip_conntrack_info ctinfo;
	struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct ctc_flow *flow;
	u32 number;

	stash->skb = NULL;
	if (ct != stash->ct)
		return;
	stash->key.local = local;
	/* Early demux gave the packet a socket, and that socket's route: another packet's. */
	if (skb->sk || !ctc_route_learn(cn, skb, &stash->key, &f6i)) {
		ctc_count(cn, CTCACHE_STAT_REFUSED);
		return;
	}
	flow = ctc_flow_find(ct, config->carrier);
	number = flow ? ctc_intern(cn, stash->epoch, &stash->key, skb_dst(skb), f6i) : 0;
	if (!number)
		return;
	WRITE_ONCE(flow->number[CTINFO2DIR(ctinfo)], number);
	ctc_zone_count(config, stash->key.zone)->learned++;
}

static unsigned int ctc_pre_routing4(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *state)
{
	if (likely(in_softirq()))
		ctc_pre_routing(priv, skb, AF_INET);
	return NF_ACCEPT;
}

static unsigned int ctc_pre_routing6(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *state)
{
	if (likely(in_softirq()))
		ctc_pre_routing(priv, skb, AF_INET6);
	return NF_ACCEPT;
}

static unsigned int ctc_learn_at(struct ctc_net *cn, const struct sk_buff *skb, bool local)
{
	struct ctc_stash *stash;

	if (unlikely(!in_softirq()))
		return NF_ACCEPT;
	stash = ctc_stash(this_cpu_ptr(cn->cpu), skb);
	if (unlikely(stash->skb == skb))
		ctc_learn(cn, stash, skb, local);
	return NF_ACCEPT;
}

static unsigned int ctc_forward(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	return ctc_learn_at(priv, skb, false);
}

static unsigned int ctc_local_in(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	return ctc_learn_at(priv, skb, true);
}

#define CTC_HOOK(family, at, function)                                                             \
	{                                                                                          \
		.hook = function, .pf = NFPROTO_##family, .hooknum = NF_INET_##at,                 \
		.priority = INT_MAX,                                                               \
	}

static const struct nf_hook_ops ctc_hooks[] = {
	CTC_HOOK(IPV4, PRE_ROUTING, ctc_pre_routing4), CTC_HOOK(IPV4, FORWARD, ctc_forward),
	CTC_HOOK(IPV4, LOCAL_IN, ctc_local_in),
#if CTC_IPV6
	CTC_HOOK(IPV6, PRE_ROUTING, ctc_pre_routing6), CTC_HOOK(IPV6, FORWARD, ctc_forward),
	CTC_HOOK(IPV6, LOCAL_IN, ctc_local_in),
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

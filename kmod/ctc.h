/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the module share.
 *
 * A *flow* is a direction of a conntrack entry and holds a 32-bit *number* (carrier.c): the index
 * of a *decision* (decision.c) and the *epoch* of its network namespace in which it was learned;
 * or, if a socket here receives the direction, a hint where to look for it (socket.c).
 * A decision is what the slow path found (route.c) for an input device, mark, DSCP and zone;
 * flows share it, and it alone holds references. Whatever could change any decision starts a new
 * epoch (notify.c), which voids every number at once and gives the references back. Hooks
 * (hooks.c) use and learn decisions; a namespace (netns.c) owns all of this and is set up by its
 * configuration (config.c, netlink.c), and costs nothing before.
 *
 * References: a decision owns one on everything that it names. Packets
 * borrow the dst (noref): they live in the RCU section in which they were given it. Contexts:
 * hooks run in softirq or with bottom halves off, under RCU; epochs may start anywhere but in
 * hard interrupts; all else is process context.
 */
#ifndef _CTC_H
#define _CTC_H

#include <linux/hash.h>
#include <linux/mutex.h>
#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <net/ip.h>
#include <net/netlink.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_zones.h>

#include "compat.h"
#include "uapi/nf_ctcache.h"

#define CTC_EPOCH_SHIFT 16
#define CTC_EPOCH_MAX	0x7fff
#define CTC_INDEX_MASK	0xffff
#define CTC_HINT	0x80000000 /* the rest of the number is a hint (socket.c) */
#define CTC_KINDS	(CTCACHE_KIND_ROUTE | CTCACHE_KIND_IPSEC | CTCACHE_KIND_SOCKET)

/* carrier.c: two numbers, by direction (enum ip_conntrack_dir). */
struct ctc_flow {
	u32 number[IP_CT_DIR_MAX];
};

/* ipsec.c: what a decision says of IPsec's policies. */
#define CTC_IPSEC_ASK	 0 /* nothing: the stack asks them, if there are any */
#define CTC_IPSEC_CLEAR	 1 /* the packet may pass, untransformed */
#define CTC_IPSEC_BUNDLE 2 /* the packet may pass; dst is a bundle */

/*
 * What of a packet, besides its flow's tuple, leads to a decision. Padding is zero: keys are
 * compared as bytes.
 */
struct ctc_key {
	u32 mark;
	u32 iif;
	u16 zone; /* slot in the configuration */
	u8 dscp;
	u8 input; /* CTC_INPUT_* */
	u8 family;
	u8 local : 1;
	u8 ipsec : 2;	  /* CTC_IPSEC_* */
	u8 multipath : 1; /* a choice among next hops */
	u16 flags;	  /* for the packet's control block: IPSKB_*, IP6SKB_* */
};

#define CTC_INPUT_VMARK	  0x1 /* IPv4: there is a mark, and the device's src_valid_mark is set */
#define CTC_INPUT_SECURED 0x2 /* the packet came by an IPsec state */

/* What lookups have found for a packet. References are the finder's. */
struct ctc_found {
	struct dst_entry *route;
	struct dst_entry *bundle; /* of CTC_IPSEC_BUNDLE */
	struct xfrm_state *state; /* of CTC_INPUT_SECURED */
};

/*
 * One cache line. Written under ctc_net.lock; a reader trusts what it read if the number is the
 * same before and after.
 */
struct ctc_decision {
	u32 number;
	struct ctc_key key;
	struct dst_entry *dst;	  /* what packets are given: the route, or one of ipsec.c */
	struct dst_entry *route;  /* what a lookup found; decides whether it still would */
	struct xfrm_state *state; /* of CTC_INPUT_SECURED */
	struct fib6_info *f6i; /* only of routes that expire: router advertisements and prefixes */
	u32 hash;
	u32 next; /* number of the next one in the bucket */
} ____cacheline_aligned;

struct ctc_table {
	u32 size; /* slots, of which 0 is never used */
	u32 bucket_mask;
	u32 *bucket; /* numbers; one of another epoch means empty */
	struct ctc_decision slot[];
};

struct ctc_counters {
	u64 hits;
	u64 misses;
	u64 learned;
};

/*
 * config.c: never changes while it can be seen; replaced as a whole. Slot 0 is for zones that are
 * not named.
 */
struct ctc_zone {
	u16 id;
	u32 kinds;
	u32 class;
	struct ctc_counters before; /* under former configurations */
};

struct ctc_config {
	u64 generation;
	u32 proof;
	u32 decisions;
	u32 nr_zones; /* slots */
	u8 carrier;
	u16 *slot_of; /* by zone id */
	struct ctc_zone *zone;
	struct ctc_counters **counters; /* by CPU, then by slot */
};

struct ctc_cpu {
	u32 since_proof;
	u64 stat[CTCACHE_STAT_MAX + 1];
	u64 miss[CTCACHE_MISS_MAX + 1];
};

/* The cache of a network namespace. */
struct ctc_net {
	/* What every packet reads. */
	u32 epoch;    /* 0: nothing can hit or be learned */
	u32 genid[2]; /* the kernel's generations that the epoch stands for: IPv4, IPv6 */
	u32 fault;
	u8 state; /* enum ctcache_state; written under lock */
	struct ctc_table __rcu *table;
	struct ctc_config __rcu *config;
	struct ctc_cpu __percpu *cpu;
	struct net *net;
	bool resilient; /* a resilient next hop group was seen, which counts on being looked up */
	/* IPsec policies were seen whose limits count from their last use, or that match marks. */
	bool policies_age, policies_mark;

	spinlock_t lock ____cacheline_aligned; /* epoch, generations, table content */
	u32 used;			       /* slots of this epoch, the first one included */
	u8 quiet;      /* CTC_QUIET_*: families whose change is announced but not published yet */
	u32 announced; /* how often that was */
	u32 settling;  /* how many of them the settling work waits for */
	unsigned long full_at; /* jiffies when the table was last emptied because it was full */
	u64 causes[CTCACHE_CAUSE_MAX + 1];
	u64 sweeps;

	/* Under ctc_mutex: configuration, start and stop. */
	struct list_head list; /* in ctc_nets while started */
	u64 generation;
	bool started;
	struct nf_hook_ops *hooks;
	struct notifier_block fib_nb, nexthop_nb;
	struct socket *netconf;
	struct work_struct settle, sweep;
};

/* main.c */
extern unsigned int ctc_net_id;
extern struct mutex ctc_mutex;
extern struct list_head ctc_nets;
struct ctc_net *ctc_pernet(const struct net *net);

static inline struct ctc_config *ctc_config(const struct ctc_net *cn)
{
	return rcu_dereference_protected(cn->config, lockdep_is_held(&ctc_mutex));
}

/* netns.c */
int ctc_net_start(struct ctc_net *cn, struct netlink_ext_ack *extack);
void ctc_net_stop(struct ctc_net *cn);
extern struct pernet_operations ctc_net_ops;

/* carrier.c */
int ctc_carrier_get(struct net *net, u8 carrier, struct netlink_ext_ack *extack);
void ctc_carrier_put(struct net *net, u8 carrier);
int ctc_carrier_init(void);
void ctc_carrier_exit(void);

static inline struct ctc_flow *ctc_flow_find(const struct nf_conn *ct, u8 carrier)
{
	struct nf_conn_labels *labels;

	if (likely(carrier == CTCACHE_CARRIER_ACT_CT))
		return ctc_act_ct_find(ct);
	labels = nf_ct_labels_find(ct);
	return labels ? (void *)&labels->bits[64 / BITS_PER_LONG] : NULL;
}

/* Gives an unconfirmed entry room for its numbers. */
static inline bool ctc_flow_add(struct nf_conn *ct, u8 carrier)
{
	if (ctc_flow_find(ct, carrier))
		return true;
	return carrier == CTCACHE_CARRIER_ACT_CT && ctc_act_ct_add(ct);
}

/* decision.c */
#define CTC_QUIET_4 0x1
#define CTC_QUIET_6 0x2
struct ctc_table *ctc_table_alloc(u32 decisions);
void ctc_table_free(struct ctc_table *table);
u32 ctc_intern(struct ctc_net *cn, u32 epoch, const struct ctc_key *key,
	       const struct ctc_found *found);
void ctc_epoch_start(struct ctc_net *cn, enum ctcache_cause cause, u8 quiet);
void ctc_epoch_stop(struct ctc_net *cn, u8 state);
int ctc_epoch_skip(struct ctc_net *cn, u32 epoch);
void ctc_epoch_install(struct ctc_net *cn, struct ctc_table *table, u32 epoch,
		       enum ctcache_cause cause);
u32 ctc_decisions(struct ctc_net *cn);
bool ctc_decision_read(struct ctc_net *cn, u32 number, struct ctc_decision *copy);

/*
 * The generation of the kernel's own caches: moves with most changes, after they have been
 * published.
 */
static inline u32 ctc_generation(const struct net *net, u8 family)
{
	return family == AF_INET ? (u32)rt_genid_ipv4(net) : (u32)rt_genid_ipv6(net);
}

/*
 * The epoch under which a packet may be looked up now. The generation is read first: whoever sees
 * the new one of an epoch also sees that epoch.
 */
static inline u32 ctc_epoch(struct ctc_net *cn, u8 family)
{
	/* Both pair with ctc_epoch_set(). */
	u32 known = smp_load_acquire(&cn->genid[family != AF_INET]);

	if (unlikely(known != ctc_generation(cn->net, family)))
		ctc_epoch_start(cn,
				family == AF_INET ? CTCACHE_CAUSE_GENERATION4
						  : CTCACHE_CAUSE_GENERATION6,
				0);
	/* As above. */
	return smp_load_acquire(&cn->epoch);
}

/* route.c */
bool ctc_multipath_by_flow(const struct ctc_net *cn, const struct sk_buff *skb, u8 family);
bool ctc_route_found(const struct ctc_net *cn, const struct sk_buff *skb, struct ctc_key *key);
bool ctc_route_keep(const struct ctc_net *cn, const struct ctc_key *key,
		    const struct dst_entry *dst, struct fib6_info **f6i);
bool ctc_route_same(const struct dst_entry *a, const struct dst_entry *b, u8 family);
bool ctc_route_shared(const struct dst_entry *a, const struct dst_entry *b);
bool ctc_route_lookup(struct sk_buff *skb, u8 family);
u64 ctc_route_hash(const struct dst_entry *dst, u8 family);
bool ctc_src_vmark(struct net *net, int ifindex);
void ctc_route_gateway(const struct dst_entry *dst, u8 family, const void **gateway, u32 *mtu);

static inline bool ctc_dst_current(const struct dst_entry *dst)
{
	unsigned long expires = READ_ONCE(dst->expires);

	return READ_ONCE(dst->obsolete) == DST_OBSOLETE_FORCE_CHK &&
	       (!expires || time_before(jiffies, expires));
}

/* ipsec.c */
#if CTC_XFRM
struct xfrm_state *ctc_ipsec_state(const struct sk_buff *skb);
bool ctc_ipsec_asked(const struct net *net, const struct sk_buff *skb, u8 family);
int ctc_ipsec_found(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
		    enum ip_conntrack_dir dir, struct ctc_key *key, struct ctc_found *found);
void ctc_ipsec_drop(struct net *net, struct sk_buff *skb, u8 family);
struct dst_entry *ctc_ipsec_dst(const struct ctc_key *key, const struct ctc_found *found);
int ctc_ipsec_put(struct sk_buff *msg, const struct ctc_decision *d);
bool ctc_bundle_same(const struct dst_entry *a, const struct dst_entry *b);
bool ctc_bundle_valid(struct dst_entry *bundle, const struct sk_buff *skb, u8 family);
void ctc_ipsec_start(struct ctc_net *cn);
void ctc_ipsec_init(void);
void ctc_ipsec_exit(void);
#else
static inline struct xfrm_state *ctc_ipsec_state(const struct sk_buff *skb)
{
	return NULL;
}

static inline bool ctc_ipsec_asked(const struct net *net, const struct sk_buff *skb, u8 family)
{
	return false;
}

static inline int ctc_ipsec_found(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
				  enum ip_conntrack_dir dir, struct ctc_key *key,
				  struct ctc_found *found)
{
	return 0;
}

static inline int ctc_ipsec_put(struct sk_buff *msg, const struct ctc_decision *d)
{
	return 0;
}

static inline void ctc_ipsec_drop(struct net *net, struct sk_buff *skb, u8 family)
{
}

static inline struct dst_entry *ctc_ipsec_dst(const struct ctc_key *key,
					      const struct ctc_found *found)
{
	return NULL;
}

static inline bool ctc_bundle_same(const struct dst_entry *a, const struct dst_entry *b)
{
	return false;
}

static inline bool ctc_bundle_valid(struct dst_entry *bundle, const struct sk_buff *skb, u8 family)
{
	return false;
}

static inline void ctc_ipsec_start(struct ctc_net *cn)
{
}

static inline void ctc_ipsec_init(void)
{
}

static inline void ctc_ipsec_exit(void)
{
}
#endif

/* The control block's flag of a choice among next hops, which no other packet is to share. */
#define CTC_MULTIPATH(family) ((family) == AF_INET ? IPSKB_MULTIPATH : IP6SKB_MULTIPATH)

/* Whether a new lookup would find @d for a packet that has its key. 0: yes. Under RCU. */
static __always_inline enum ctcache_miss ctc_route_valid(const struct ctc_net *cn,
							 const struct sk_buff *skb,
							 const struct ctc_decision *d, u8 family)
{
	const struct dst_entry *dst = d->route;

	if (unlikely(!ctc_dst_current(dst)))
		return CTCACHE_MISS_OBSOLETE;
	if (family == AF_INET) {
		if (unlikely(READ_ONCE(container_of(dst, struct rtable, dst)->rt_uncached_list)))
			return CTCACHE_MISS_OBSOLETE;
#if CTC_IPV6
	} else {
		if (unlikely(d->f6i && fib6_check_expired(d->f6i)))
			return CTCACHE_MISS_OBSOLETE;
		/*
		 * On a host, reachability of neighbours takes part in the choice
		 * (RT6_LOOKUP_F_REACHABLE).
		 */
		if (unlikely(!READ_ONCE(cn->net->ipv6.devconf_all->forwarding)))
			return CTCACHE_MISS_SYSCTL;
#endif
	}
	if (unlikely(d->key.multipath) && !ctc_multipath_by_flow(cn, skb, family))
		return CTCACHE_MISS_MULTIPATH;
	if (unlikely(d->key.ipsec == CTC_IPSEC_BUNDLE) && !ctc_bundle_valid(d->dst, skb, family))
		return CTCACHE_MISS_OBSOLETE;
	return 0;
}

/* socket.c */
bool ctc_socket_asked(const struct net *net, const struct sk_buff *skb, u8 family);
bool ctc_socket_first(struct net *net, const struct sk_buff *skb, u8 family);
u32 ctc_socket_hint(struct net *net, const struct sk_buff *skb, const struct nf_conn *ct,
		    enum ip_conntrack_dir dir, u8 family);
void ctc_socket_prove(struct ctc_net *cn, const struct sk_buff *skb, u32 hint, u8 family);
bool ctc_socket_owner(struct net *net, const struct nf_conn *ct, enum ip_conntrack_dir dir,
		      int ifindex, u64 *inode, u32 *uid);

/* hooks.c */
/*
 * Not: bridged (br_netfilter), with a dst or socket already (loopback, tunnel metadata, TPROXY),
 * not for us on the link.
 */
static __always_inline bool ctc_fresh(const struct sk_buff *skb)
{
	return !skb_dst(skb) && !skb->sk && skb->pkt_type == PACKET_HOST &&
	       !nf_bridge_info_exists(skb);
}

static inline u32 ctc_slot(const struct ctc_config *config, const struct nf_conn *ct)
{
	return config->slot_of[nf_ct_zone(ct)->id];
}

/*
 * Under RCU. Slots of another configuration may be beyond this one's. Packets come with bottom
 * halves off, but for those that NFQUEUE gives back: they may count on a CPU that they leave.
 */
static inline struct ctc_counters *ctc_zone_count(const struct ctc_config *config, u32 slot)
{
	return &config->counters[raw_smp_processor_id()][slot < config->nr_zones ? slot : 0];
}

int ctc_hooks_register(struct ctc_net *cn);
void ctc_hooks_unregister(struct ctc_net *cn);

/* notify.c */
int ctc_notify_init(void);
void ctc_notify_exit(void);
int ctc_notify_start(struct ctc_net *cn, struct netlink_ext_ack *extack);
void ctc_notify_stop(struct ctc_net *cn);

void ctc_event(struct ctc_net *cn, enum ctcache_cause cause, u8 quiet);

/* netconf.c */
int ctc_netconf_start(struct ctc_net *cn);
void ctc_netconf_stop(struct ctc_net *cn);

/* sweep.c */
void ctc_sweep(struct ctc_net *cn, u8 carrier, int zone);
void ctc_sweep_work(struct work_struct *work);
#define CTC_ALL_ZONES (-1)

/* config.c */
struct ctc_config *ctc_config_alloc(u32 nr_zones);
void ctc_config_free(struct ctc_config *config);
int ctc_config_apply(struct ctc_net *cn, struct ctc_config *config, struct netlink_ext_ack *extack);

/* flow.c */
struct genl_info;
struct netlink_callback;
int ctc_flow_get(struct sk_buff *skb, struct genl_info *info);
int ctc_flow_dump(struct sk_buff *skb, struct netlink_callback *cb);
int ctc_decision_dump(struct sk_buff *skb, struct netlink_callback *cb);
extern const struct nla_policy ctc_tuple_policy[CTCACHE_TUPLE_A_MAX + 1];

/* record.c */
void ctc_record_leave(const struct net *net);
void ctc_record_exit(void);

/* stats.c */
void ctc_zone_counters(const struct ctc_config *config, u32 slot, struct ctc_counters *sum);
void ctc_totals(struct ctc_net *cn, u64 *stat, u64 *miss);

static inline void ctc_count(struct ctc_net *cn, enum ctcache_stat what)
{
	this_cpu_inc(cn->cpu->stat[what]);
}

/* Whether it is the turn of a packet to be proved, which is one in @every on this CPU. */
static inline bool ctc_proof_due(struct ctc_net *cn, u32 every)
{
	if (this_cpu_inc_return(cn->cpu->since_proof) < every)
		return false;
	this_cpu_write(cn->cpu->since_proof, 0);
	return true;
}

/* netlink.c */
extern struct genl_family ctc_genl;
int ctc_check_once(const struct nlattr *head, int length, int many, struct netlink_ext_ack *extack);
int ctc_check_message(struct genl_info *info);

#endif

// SPDX-License-Identifier: GPL-2.0
/*
 * IPsec: what the policies say of a forwarded packet.
 *
 * ip_forward() and ip6_forward() ask twice: whether a packet that came like this may pass (FWD),
 * and how it leaves (OUT); the latter builds a bundle of the states for each packet. After a miss
 * the hook asks both, with the stack's own functions, and what they say becomes part of the
 * decision:
 *  - *clear*: the packet may pass and leaves as it is. The decision's dst is a clone of the route
 *    that carries DST_NOXFRM (and DST_NOPOLICY, which IPv6 looks at; IPv4 looks at the packet).
 *  - *bundle*: the packet may pass and is transformed. A bundle is built for each lookup and
 *    belongs to whoever asked, so this one is ours: it gets the route's input function and
 *    DST_NOXFRM, and goes through the forward path in place of the route.
 * A packet that the policies drop is dropped here, as the stack would have done, since to ask twice
 * would count twice.
 *
 * What else hangs on DST_NOXFRM: nf_nat looks up once more after it changed the source
 * (nf_xfrm_me_harder()), so of such flows that is asked as well, and only those keep a dst that are
 * clear both times; interfaces of IPsec look up with the packet's dst (vti_xmit(), xfrmi_xmit2()),
 * so on the way out by these the stack asks the policies for every packet.
 *
 * A packet that came by IPsec carries the states (sec_path), on which the policies' answer and the
 * route's reverse path filter depend. If it is one, the decision holds a reference on that state:
 * an equal pointer is the same state, as what the policies compare of it does not change without an
 * event.
 *
 * Policies that are inserted move the kernel's generations (xfrm_policy_insert()); all else is told
 * to key managers, of which we are one, before the message that asked for it is answered. States
 * that die or get company between the two show in the bundle (xfrm_bundle_ok()).
 */
#include <linux/if_arp.h>
#include <net/addrconf.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/xfrm.h>

#include "ctc.h"

#if CTC_XFRM

/* Whether limits of the policy count from its last use, of which a cache deprives it. */
static bool ctc_policy_ages(const struct xfrm_policy *policy)
{
	return policy->lft.soft_use_expires_seconds || policy->lft.hard_use_expires_seconds;
}

static void ctc_policy_seen(struct ctc_net *cn, const struct xfrm_policy *policy)
{
	if (ctc_policy_ages(policy))
		WRITE_ONCE(cn->policies_age, true);
	if (policy->mark.m)
		WRITE_ONCE(cn->policies_mark, true);
}

/* The one state that the packet came by, or NULL. */
struct xfrm_state *ctc_ipsec_state(const struct sk_buff *skb)
{
	const struct sec_path *path = skb_sec_path(skb);

	return path && path->len == 1 ? path->xvec[0] : NULL;
}

/* Whether there is nothing to ask. The first policy, and another default, move the generation. */
static bool ctc_ipsec_idle(const struct net *net)
{
	const struct netns_xfrm *x = &net->xfrm;

	return !READ_ONCE(x->policy_count[XFRM_POLICY_FWD]) &&
	       !READ_ONCE(x->policy_count[XFRM_POLICY_OUT]) &&
	       READ_ONCE(x->policy_default[XFRM_POLICY_FWD]) == XFRM_USERPOLICY_ACCEPT &&
	       READ_ONCE(x->policy_default[XFRM_POLICY_OUT]) == XFRM_USERPOLICY_ACCEPT;
}

/* Whether the source is translated on the way out. As nf_nat_ipv4_out() and nf_nat_ipv6_out(). */
static bool ctc_source_changes(const struct nf_conn *ct, enum ip_conntrack_dir dir)
{
	const struct nf_conntrack_tuple *in = &ct->tuplehash[dir].tuple;
	const struct nf_conntrack_tuple *out = &ct->tuplehash[!dir].tuple;

	return !nf_inet_addr_cmp(&in->src.u3, &out->dst.u3) ||
	       (in->dst.protonum != IPPROTO_ICMP && in->dst.protonum != IPPROTO_ICMPV6 &&
		in->src.u.all != out->dst.u.all);
}

/*
 * Whether the packet's policies are asked, and the answers may be kept. IPv6's switches change
 * without a word, but no answer that is kept becomes wrong by them.
 */
bool ctc_ipsec_asked(const struct net *net, const struct sk_buff *skb, u8 family)
{
#if CTC_IPV6
	const struct inet6_dev *idev;

	if (family == AF_INET6) { /* as ip6_forward() */
		idev = __in6_dev_get_safely(skb->dev);
		return idev && READ_ONCE(net->ipv6.devconf_all->forwarding) &&
		       !READ_ONCE(net->ipv6.devconf_all->disable_policy) &&
		       !READ_ONCE(idev->cnf.disable_policy) &&
		       !READ_ONCE(net->ipv6.devconf_all->proxy_ndp);
	}
#endif
	return true;
}

/* Whether the device looks up policies itself, with the dst of what it is to send. */
static bool ctc_ipsec_device(const struct net_device *dev)
{
	const char *kind = dev->rtnl_link_ops ? dev->rtnl_link_ops->kind : "";

	return !strcmp(kind, "vti") || !strcmp(kind, "vti6") || !strcmp(kind, "xfrm");
}

/* The flow of the packet as it is after its source was translated; of *fl as it was before. */
static void ctc_translate(struct flowi *fl, const struct nf_conn *ct, enum ip_conntrack_dir dir,
			  u8 family)
{
	const struct nf_conntrack_tuple *reply = &ct->tuplehash[!dir].tuple;
	union flowi_uli *uli = &fl->u.ip4.uli;

	if (family == AF_INET) {
		fl->u.ip4.saddr = reply->dst.u3.ip;
	} else {
		fl->u.ip6.saddr = reply->dst.u3.in6;
		uli = &fl->u.ip6.uli;
	}
	switch (reply->dst.protonum) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		uli->ports.sport = reply->dst.u.all;
	}
}

/* Whether no policy wants packets of the flow transformed after their source was translated. */
static bool ctc_clear_translated(struct ctc_net *cn, struct dst_entry *route, struct flowi *fl,
				 const struct nf_conn *ct, enum ip_conntrack_dir dir, u8 family)
{
	struct dst_entry *dst;

	/* The mark that counts there may be set later than here. */
	if (READ_ONCE(cn->policies_mark) || !dst_hold_safe(route))
		return false;
	ctc_translate(fl, ct, dir, family);
	dst = xfrm_lookup(cn->net, route, fl, NULL, 0);
	if (!IS_ERR(dst))
		dst_release(dst);
	return dst == route;
}

static u8 ctc_hops(const struct sk_buff *skb, u8 family)
{
	return family == AF_INET ? ip_hdr(skb)->ttl : ipv6_hdr(skb)->hop_limit;
}

/*
 * Not one that queues, nor of states in a device, nor of policies that age by use, nor where realms
 * are counted of what comes in.
 */
static bool ctc_bundle_keep(const struct dst_entry *bundle, const struct dst_entry *route,
			    const struct ctc_key *key)
{
	const struct xfrm_dst *xdst = (const struct xfrm_dst *)bundle;
	const struct dst_entry *dst;
	int i;

	if (bundle->flags & DST_XFRM_QUEUE || !bundle->xfrm || bundle->dev->ifindex == key->iif)
		return false;
#ifdef CONFIG_IP_ROUTE_CLASSID
	if (route->tclassid)
		return false;
#endif
	for (i = 0; i < xdst->num_pols; i++)
		if (ctc_policy_ages(xdst->pols[i]))
			return false;
	for (dst = bundle; dst->xfrm; dst = xfrm_dst_child(dst))
		if (dst->xfrm->xso.dev)
			return false;
	return true;
}

/*
 * Asks the policies about a packet to forward, whose found->route a lookup has just found.
 * 0: *key says what they answered, and found->bundle is the caller's (with a reference). -ENOENT:
 * nothing may be learned, the stack asks again. -EPERM: they drop the packet. Under RCU.
 */
int ctc_ipsec_found(struct ctc_net *cn, struct sk_buff *skb, const struct nf_conn *ct,
		    enum ip_conntrack_dir dir, struct ctc_key *key, struct ctc_found *found)
{
	struct dst_entry *route = found->route, *dst;
	u8 family = key->family;
	struct flowi fl;

	if ((!secpath_exists(skb) && ctc_ipsec_idle(cn->net)) || ctc_ipsec_device(route->dev))
		return 0;
	/* The stack reports these before it asks the second time. */
	if (ctc_hops(skb, family) <= 1 || READ_ONCE(cn->policies_age))
		return -ENOENT;
	if (!xfrm_policy_check(NULL, XFRM_POLICY_FWD, skb, family))
		return -EPERM;
	if (xfrm_decode_session(skb, &fl, family) < 0 || !dst_hold_safe(route))
		return -ENOENT;
	dst = xfrm_lookup(cn->net, route, &fl, NULL, XFRM_LOOKUP_QUEUE);
	if (IS_ERR(dst))
		return -EPERM;
	if (dst == route) {
		key->ipsec = CTC_IPSEC_CLEAR;
		dst_release(route);
	} else {
		key->ipsec = CTC_IPSEC_BUNDLE;
		found->bundle = dst;
	}
	if (found->bundle && !ctc_bundle_keep(dst, route, key))
		return -ENOENT;
	if (ctc_source_changes(ct, dir) &&
	    (found->bundle || !ctc_clear_translated(cn, route, &fl, ct, dir, family)))
		return -ENOENT;
	/* No hint of this dst for a list's next packet (ip_extract_route_hint()). */
	key->flags |= CTC_MULTIPATH(family);
	if (family == AF_INET)
		key->flags |= IPSKB_NOPOLICY;
	return 0;
}

/* What ip_forward() and ip6_forward() do with a packet that a policy drops. */
void ctc_ipsec_drop(struct net *net, struct sk_buff *skb, u8 family)
{
#if CTC_IPV6
	if (family == AF_INET6) {
		struct inet6_dev *idev =
			__in6_dev_get_safely(dev_get_by_index_rcu(net, IP6CB(skb)->iif));

		__IP6_INC_STATS(net, idev, IPSTATS_MIB_INDISCARDS);
	}
#endif
	kfree_skb_reason(skb, SKB_DROP_REASON_XFRM_POLICY);
}

static void ctc_dst_share(struct dst_entry *clone, const struct dst_entry *dst)
{
	ip_dst_init_metrics(clone, (struct dst_metrics *)dst_metrics_ptr((struct dst_entry *)dst));
#ifdef CONFIG_IP_ROUTE_CLASSID
	clone->tclassid = dst->tclassid;
#endif
}

/* Not of a path MTU, which the kernel changes in place. */
static struct dst_entry *ctc_clone4(struct rtable *rt)
{
	struct rtable *clone;

	if (rt->rt_pmtu || READ_ONCE(rt->dst.expires))
		return NULL;
	clone = rt_dst_clone(rt->dst.dev, rt);
	if (!clone)
		return NULL;
	clone->rt_genid = rt->rt_genid;
	clone->dst.flags |= DST_NOXFRM;
	ctc_dst_share(&clone->dst, &rt->dst);
	return &clone->dst;
}

#if CTC_IPV6
/* As ip6_rt_pcpu_alloc(), which is not exported, has made @rt. */
static struct dst_entry *ctc_clone6(struct rt6_info *rt)
{
	struct fib6_info *from = rcu_dereference(rt->from);
	struct rt6_info *clone;

	if (!from || !(rt->rt6i_flags & RTF_PCPU) || !fib6_info_hold_safe(from))
		return NULL;
	/* DST_NOCOUNT: nor does it start the garbage collection, which takes locks. */
	clone = ip6_dst_alloc(dev_net(rt->dst.dev), rt->dst.dev,
			      rt->dst.flags | DST_NOCOUNT | DST_NOXFRM | DST_NOPOLICY);
	if (!clone) {
		fib6_info_release(from);
		return NULL;
	}
	clone->dst.input = rt->dst.input;
	clone->dst.output = rt->dst.output;
	clone->dst.lastuse = jiffies;
	clone->rt6i_dst = rt->rt6i_dst;
	clone->rt6i_src = rt->rt6i_src;
	clone->rt6i_gateway = rt->rt6i_gateway;
	clone->rt6i_flags = rt->rt6i_flags;
	clone->rt6i_idev = rt->rt6i_idev;
	if (clone->rt6i_idev)
		in6_dev_hold(clone->rt6i_idev);
	rcu_assign_pointer(clone->from, from);
	ctc_dst_share(&clone->dst, &rt->dst);
	return &clone->dst;
}
#endif

/*
 * What packets of a decision are given, with a reference of the caller's; NULL when there is none
 * to be had. The bundle becomes the decision's own.
 */
struct dst_entry *ctc_ipsec_dst(const struct ctc_key *key, const struct ctc_found *found)
{
	if (key->ipsec == CTC_IPSEC_BUNDLE) {
		found->bundle->input = found->route->input;
		found->bundle->flags |= DST_NOXFRM | DST_NOPOLICY;
		dst_hold(found->bundle);
		return found->bundle;
	}
	if (key->family == AF_INET)
		return ctc_clone4(container_of(found->route, struct rtable, dst));
#if CTC_IPV6
	return ctc_clone6(dst_rt6_info(found->route));
#else
	return NULL;
#endif
}

/* Whether two bundles do the same to every packet. */
bool ctc_bundle_same(const struct dst_entry *a, const struct dst_entry *b)
{
	for (; a->xfrm && b->xfrm; a = xfrm_dst_child(a), b = xfrm_dst_child(b)) {
		const struct xfrm_dst *x = (const struct xfrm_dst *)a;
		const struct xfrm_dst *y = (const struct xfrm_dst *)b;

		if (a->xfrm != b->xfrm || x->route != y->route || x->xfrm_genid != y->xfrm_genid ||
		    x->num_pols != y->num_pols || x->policy_genid != y->policy_genid ||
		    memcmp(x->pols, y->pols, sizeof(x->pols[0]) * x->num_pols))
			return false;
	}
	return a == b;
}

/*
 * Whether a lookup would build this bundle again, in which case its MTU is up to date as well. A
 * packet whose hops end here is reported about before it has a bundle.
 */
bool ctc_bundle_valid(struct dst_entry *bundle, const struct sk_buff *skb, u8 family)
{
	return ctc_hops(skb, family) > 1 && dst_check(bundle, 0);
}

/* Under RCU: what the decision says of IPsec. -EMSGSIZE. */
int ctc_ipsec_put(struct sk_buff *msg, const struct ctc_decision *d)
{
	const struct dst_entry *dst = d->dst;

	if ((d->key.ipsec == CTC_IPSEC_CLEAR && nla_put_flag(msg, CTCACHE_DECISION_A_CLEAR)) ||
	    (d->state && nla_put_be32(msg, CTCACHE_DECISION_A_SPI_IN, d->state->id.spi)))
		return -EMSGSIZE;
	if (d->key.ipsec != CTC_IPSEC_BUNDLE)
		return 0;
	while (xfrm_dst_child(dst)->xfrm)
		dst = xfrm_dst_child(dst);
	return nla_put_u32(msg, CTCACHE_DECISION_A_POLICY,
			   ((const struct xfrm_dst *)d->dst)->pols[0]->index) ||
			       nla_put_be32(msg, CTCACHE_DECISION_A_SPI, dst->xfrm->id.spi)
		       ? -EMSGSIZE
		       : 0;
}

static int ctc_state_event(struct xfrm_state *x, const struct km_event *c)
{
	/* A counter that was set or told of changes nothing. */
	if (c->event != XFRM_MSG_NEWAE)
		ctc_event(ctc_pernet(x ? xs_net(x) : c->net), CTCACHE_CAUSE_IPSEC, 0);
	return 0;
}

static int ctc_policy_event(struct xfrm_policy *policy, int dir, const struct km_event *c)
{
	struct ctc_net *cn = ctc_pernet(policy ? xp_net(policy) : c->net);

	if (policy)
		ctc_policy_seen(cn, policy);
	ctc_event(cn, CTCACHE_CAUSE_IPSEC, 0);
	return 0;
}

static int ctc_acquire(struct xfrm_state *x, struct xfrm_tmpl *tmpl, struct xfrm_policy *policy)
{
	return -EOPNOTSUPP;
}

/* The caller's *error stands. */
static struct xfrm_policy *ctc_compile_policy(struct sock *sk, int option, u8 *data, int length,
					      int *error)
{
	return NULL;
}

static struct xfrm_mgr ctc_manager = {
	.notify = ctc_state_event,
	.notify_policy = ctc_policy_event,
	.acquire = ctc_acquire,
	.compile_policy = ctc_compile_policy,
};

static int ctc_policy_walked(struct xfrm_policy *policy, int dir, int count, void *cn)
{
	ctc_policy_seen(cn, policy);
	return 0;
}

/* Process context. Sees the policies of before our time. */
void ctc_ipsec_start(struct ctc_net *cn)
{
	struct xfrm_policy_walk walk;

	xfrm_policy_walk_init(&walk, XFRM_POLICY_TYPE_ANY);
	xfrm_policy_walk(cn->net, &walk, ctc_policy_walked, cn);
	xfrm_policy_walk_done(&walk, cn->net);
}

void ctc_ipsec_init(void)
{
	xfrm_register_km(&ctc_manager);
}

void ctc_ipsec_exit(void)
{
	xfrm_unregister_km(&ctc_manager);
}

#endif

// SPDX-License-Identifier: GPL-2.0
/*
 * Descriptors: what is known of a flow, put together when somebody asks.
 *
 * Conntrack has the tuples, zone, mark, counters and times; the two numbers lead to device and
 * next hop; the configuration has the class. Entries are found as ctnetlink finds them: by tuple,
 * or by walking the hash table bucket by bucket, under the bucket's lock; between two buckets the
 * table may change, and an entry be met twice or not at all.
 */
#include <net/genetlink.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_acct.h>
#include <net/netfilter/nf_conntrack_core.h>
#include <net/netfilter/nf_conntrack_timestamp.h>
#include <net/netfilter/nf_conntrack_zones.h>

#include "ctc.h"

const struct nla_policy ctc_tuple_policy[CTCACHE_TUPLE_A_MAX + 1] = {
	[CTCACHE_TUPLE_A_PROTOCOL] = { .type = NLA_U8 },
	[CTCACHE_TUPLE_A_SOURCE] = { .type = NLA_BINARY, .len = sizeof(struct in6_addr) },
	[CTCACHE_TUPLE_A_DESTINATION] = { .type = NLA_BINARY, .len = sizeof(struct in6_addr) },
	[CTCACHE_TUPLE_A_SOURCE_PORT] = { .type = NLA_U16 },
	[CTCACHE_TUPLE_A_DESTINATION_PORT] = { .type = NLA_U16 },
	[CTCACHE_TUPLE_A_ZONE] = { .type = NLA_U16 },
};

static int ctc_put_decision(struct sk_buff *skb, const struct ctc_config *config,
			    const struct ctc_decision *d, int attr)
{
	struct nlattr *nest = nla_nest_start(skb, attr);
	const void *gateway;
	u32 mtu;

	if (!nest)
		return -EMSGSIZE;
	ctc_route_gateway(d->dst, d->key.family, &gateway, &mtu);
	if (nla_put_u32(skb, CTCACHE_DECISION_A_NUMBER, d->number) ||
	    nla_put_u8(skb, CTCACHE_DECISION_A_FAMILY, d->key.family) ||
	    (d->key.local && nla_put_flag(skb, CTCACHE_DECISION_A_LOCAL)) ||
	    (d->key.zone && d->key.zone < config->nr_zones &&
	     nla_put_u16(skb, CTCACHE_DECISION_A_ZONE, config->zone[d->key.zone].id)) ||
	    nla_put_u32(skb, CTCACHE_DECISION_A_IIF, d->key.iif) ||
	    nla_put_u32(skb, CTCACHE_DECISION_A_MARK, d->key.mark) ||
	    nla_put_u8(skb, CTCACHE_DECISION_A_DSCP, d->key.dscp >> 2) ||
	    nla_put_u32(skb, CTCACHE_DECISION_A_OIF, READ_ONCE(d->dst->dev)->ifindex) ||
	    (gateway && nla_put(skb, CTCACHE_DECISION_A_GATEWAY, d->key.family == AF_INET ? 4 : 16,
				gateway)) ||
	    nla_put_u32(skb, CTCACHE_DECISION_A_MTU, mtu) || ctc_ipsec_put(skb, d))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int ctc_put_tuple(struct sk_buff *skb, const struct nf_conntrack_tuple *tuple, u16 zone)
{
	struct nlattr *nest = nla_nest_start(skb, CTCACHE_DIRECTION_A_TUPLE);
	int length = tuple->src.l3num == AF_INET ? 4 : 16;

	if (!nest || nla_put_u8(skb, CTCACHE_TUPLE_A_PROTOCOL, tuple->dst.protonum) ||
	    nla_put(skb, CTCACHE_TUPLE_A_SOURCE, length, &tuple->src.u3) ||
	    nla_put(skb, CTCACHE_TUPLE_A_DESTINATION, length, &tuple->dst.u3) ||
	    nla_put_be16(skb, CTCACHE_TUPLE_A_SOURCE_PORT, tuple->src.u.all) ||
	    nla_put_be16(skb, CTCACHE_TUPLE_A_DESTINATION_PORT, tuple->dst.u.all) ||
	    nla_put_u16(skb, CTCACHE_TUPLE_A_ZONE, zone))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int ctc_put_direction(struct sk_buff *skb, struct ctc_net *cn, const struct nf_conn *ct,
			     enum ip_conntrack_dir dir)
{
	bool original = dir == IP_CT_DIR_ORIGINAL;
	struct nlattr *nest =
		nla_nest_start(skb, original ? CTCACHE_FLOW_A_ORIGINAL : CTCACHE_FLOW_A_REPLY);
	const struct ctc_config *config = ctc_config(cn);
	const struct ctc_flow *flow = ctc_flow_find(ct, config->carrier);
	const struct nf_conn_acct *acct = nf_conn_acct_find(ct);
	struct ctc_decision d = {};
	u64 inode;
	u32 uid;

	if (!nest ||
	    ctc_put_tuple(skb, &ct->tuplehash[dir].tuple, nf_ct_zone_id(nf_ct_zone(ct), dir)))
		return -EMSGSIZE;
	if (acct &&
	    (nla_put_u64_64bit(skb, CTCACHE_DIRECTION_A_PACKETS,
			       atomic64_read(&acct->counter[dir].packets),
			       CTCACHE_DIRECTION_A_PAD) ||
	     nla_put_u64_64bit(skb, CTCACHE_DIRECTION_A_BYTES,
			       atomic64_read(&acct->counter[dir].bytes), CTCACHE_DIRECTION_A_PAD)))
		return -EMSGSIZE;
	if (flow && ctc_decision_read(cn, READ_ONCE(flow->number[dir]), &d) &&
	    ctc_put_decision(skb, config, &d, CTCACHE_DIRECTION_A_DECISION))
		return -EMSGSIZE;
	if (ctc_socket_owner(cn->net, ct, dir, d.key.iif, &inode, &uid) &&
	    (nla_put_u64_64bit(skb, CTCACHE_DIRECTION_A_SOCKET_INODE, inode,
			       CTCACHE_DIRECTION_A_PAD) ||
	     nla_put_u32(skb, CTCACHE_DIRECTION_A_SOCKET_UID, uid)))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

/* Under RCU and ctc_mutex, with a reference on @ct or its bucket locked. */
static int ctc_put_flow(struct sk_buff *skb, struct ctc_net *cn, const struct nf_conn *ct)
{
	const struct ctc_config *config = ctc_config(cn);
	const struct ctc_zone *zone = &config->zone[config->slot_of[nf_ct_zone(ct)->id]];
	const struct nf_conn_tstamp *tstamp = nf_conn_tstamp_find(ct);
	struct nlattr *nest = nla_nest_start(skb, CTCACHE_A_FLOW);

	if (!nest || nla_put_u16(skb, CTCACHE_FLOW_A_ZONE, nf_ct_zone(ct)->id) ||
	    nla_put_u32(skb, CTCACHE_FLOW_A_CLASS, zone->class) ||
	    nla_put_u8(skb, CTCACHE_FLOW_A_FAMILY, nf_ct_l3num(ct)) ||
	    nla_put_u32(skb, CTCACHE_FLOW_A_STATUS, READ_ONCE(ct->status)) ||
	    nla_put_u32(skb, CTCACHE_FLOW_A_TIMEOUT, nf_ct_expires(ct) / HZ) ||
	    (tstamp &&
	     nla_put_u64_64bit(skb, CTCACHE_FLOW_A_START, tstamp->start, CTCACHE_FLOW_A_PAD)))
		return -EMSGSIZE;
#if IS_ENABLED(CONFIG_NF_CONNTRACK_MARK)
	if (nla_put_u32(skb, CTCACHE_FLOW_A_MARK, READ_ONCE(ct->mark)))
		return -EMSGSIZE;
#endif
	if (ctc_put_direction(skb, cn, ct, IP_CT_DIR_ORIGINAL) ||
	    ctc_put_direction(skb, cn, ct, IP_CT_DIR_REPLY))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int ctc_parse_tuple(const struct nlattr *attr, struct nf_conntrack_tuple *tuple,
			   struct nf_conntrack_zone *zone, struct netlink_ext_ack *extack)
{
	struct nlattr *tb[CTCACHE_TUPLE_A_MAX + 1];
	int length, err;

	err = nla_parse_nested(tb, CTCACHE_TUPLE_A_MAX, attr, ctc_tuple_policy, extack);
	err = err ?: ctc_check_once(nla_data(attr), nla_len(attr), 0, extack);
	if (err)
		return err;
	if (!tb[CTCACHE_TUPLE_A_PROTOCOL] || !tb[CTCACHE_TUPLE_A_SOURCE] ||
	    !tb[CTCACHE_TUPLE_A_DESTINATION]) {
		NL_SET_ERR_MSG_ATTR(extack, attr, "a tuple needs protocol, source and destination");
		return -EINVAL;
	}
	length = nla_len(tb[CTCACHE_TUPLE_A_SOURCE]);
	if ((length != 4 && length != 16) || nla_len(tb[CTCACHE_TUPLE_A_DESTINATION]) != length) {
		NL_SET_ERR_MSG_ATTR(extack, attr, "addresses have 4 or 16 bytes, both as many");
		return -EINVAL;
	}
	memset(tuple, 0, sizeof(*tuple));
	tuple->src.l3num = length == 4 ? AF_INET : AF_INET6;
	tuple->dst.protonum = nla_get_u8(tb[CTCACHE_TUPLE_A_PROTOCOL]);
	memcpy(&tuple->src.u3, nla_data(tb[CTCACHE_TUPLE_A_SOURCE]), length);
	memcpy(&tuple->dst.u3, nla_data(tb[CTCACHE_TUPLE_A_DESTINATION]), length);
	if (tb[CTCACHE_TUPLE_A_SOURCE_PORT])
		tuple->src.u.all = nla_get_be16(tb[CTCACHE_TUPLE_A_SOURCE_PORT]);
	if (tb[CTCACHE_TUPLE_A_DESTINATION_PORT])
		tuple->dst.u.all = nla_get_be16(tb[CTCACHE_TUPLE_A_DESTINATION_PORT]);
	nf_ct_zone_init(zone,
			tb[CTCACHE_TUPLE_A_ZONE] ? nla_get_u16(tb[CTCACHE_TUPLE_A_ZONE])
						 : NF_CT_DEFAULT_ZONE_ID,
			NF_CT_DEFAULT_ZONE_DIR, 0);
	return 0;
}

/* CTCACHE_CMD_FLOW_GET, one flow. */
int ctc_flow_get(struct sk_buff *skb, struct genl_info *info)
{
	struct net *net = genl_info_net(info);
	struct ctc_net *cn = ctc_pernet(net);
	struct nf_conntrack_tuple_hash *found;
	struct nf_conntrack_tuple tuple;
	struct nf_conntrack_zone zone;
	struct sk_buff *answer;
	struct nf_conn *ct;
	void *header;
	int err;

	if (!info->attrs[CTCACHE_A_TUPLE]) {
		NL_SET_ERR_MSG(info->extack, "which flow? a tuple is missing");
		return -EINVAL;
	}
	err = ctc_check_message(info);
	if (err)
		return err;
	err = ctc_parse_tuple(info->attrs[CTCACHE_A_TUPLE], &tuple, &zone, info->extack);
	if (err)
		return err;
	answer = genlmsg_new(GENLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!answer)
		return -ENOMEM;
	mutex_lock(&ctc_mutex);
	err = -ENOENT;
	if (!cn->started) {
		NL_SET_ERR_MSG(info->extack, "the cache is not configured in this namespace");
		goto out_free;
	}
	found = nf_conntrack_find_get(net, &zone, &tuple);
	if (!found) {
		NL_SET_ERR_MSG(info->extack, "no such flow");
		goto out_free;
	}
	ct = nf_ct_tuplehash_to_ctrack(found);
	header = genlmsg_put_reply(answer, info, &ctc_genl, 0, CTCACHE_CMD_FLOW_GET);
	rcu_read_lock();
	err = header ? ctc_put_flow(answer, cn, ct) : -EMSGSIZE;
	rcu_read_unlock();
	nf_ct_put(ct);
	if (err)
		goto out_free;
	mutex_unlock(&ctc_mutex);
	genlmsg_end(answer, header);
	return genlmsg_reply(answer, info);

out_free:
	mutex_unlock(&ctc_mutex);
	nlmsg_free(answer);
	return err;
}

struct ctc_flow_filter {
	int zone;  /* or CTC_ALL_ZONES */
	u8 family; /* or AF_UNSPEC */
	bool cached;
};

static bool ctc_flow_wanted(struct ctc_net *cn, const struct nf_conn *ct,
			    const struct ctc_flow_filter *filter)
{
	const struct ctc_flow *flow;
	struct ctc_decision d;
	u32 number;
	int dir;

	if (filter->zone != CTC_ALL_ZONES && nf_ct_zone(ct)->id != filter->zone)
		return false;
	if (filter->family && nf_ct_l3num(ct) != filter->family)
		return false;
	if (!filter->cached)
		return true;
	flow = ctc_flow_find(ct, ctc_config(cn)->carrier);
	for (dir = 0; flow && dir < IP_CT_DIR_MAX; dir++) {
		number = READ_ONCE(flow->number[dir]);
		if (number & CTC_HINT || ctc_decision_read(cn, number, &d))
			return true;
	}
	return false;
}

static int ctc_flow_dump_one(struct sk_buff *skb, struct netlink_callback *cb, struct ctc_net *cn,
			     const struct nf_conn *ct)
{
	void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &ctc_genl,
				   NLM_F_MULTI, CTCACHE_CMD_FLOW_GET);

	if (!header)
		return -EMSGSIZE;
	if (ctc_put_flow(skb, cn, ct)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

/*
 * The entries of a bucket from the @skip-th on; @skip is left at the one for which the message has
 * no room. Locked.
 */
static int ctc_flow_dump_bucket(struct sk_buff *skb, struct netlink_callback *cb,
				struct ctc_net *cn, const struct ctc_flow_filter *filter,
				struct hlist_nulls_head *bucket, long *skip)
{
	struct nf_conntrack_tuple_hash *hash;
	struct hlist_nulls_node *node;
	long position = 0;

	hlist_nulls_for_each_entry(hash, node, bucket, hnnode) {
		struct nf_conn *ct = nf_ct_tuplehash_to_ctrack(hash);
		int err = 0;

		if (NF_CT_DIRECTION(hash) != IP_CT_DIR_ORIGINAL || position++ < *skip)
			continue;
		if (net_eq(nf_ct_net(ct), cn->net) && !nf_ct_is_dying(ct) &&
		    ctc_flow_wanted(cn, ct, filter))
			err = ctc_flow_dump_one(skb, cb, cn, ct);
		if (err) {
			*skip = position - 1;
			return err;
		}
	}
	*skip = 0;
	return 0;
}

/* CTCACHE_CMD_FLOW_GET, a dump. args: bucket, entries of it that are done. */
int ctc_flow_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	const struct genl_dumpit_info *info = genl_dumpit_info(cb);
	struct ctc_net *cn = ctc_pernet(sock_net(skb->sk));
	struct ctc_flow_filter filter = {
		.zone = info->attrs[CTCACHE_A_ZONE_ID] ? nla_get_u16(info->attrs[CTCACHE_A_ZONE_ID])
						       : CTC_ALL_ZONES,
		.family = info->attrs[CTCACHE_A_FAMILY] ? nla_get_u8(info->attrs[CTCACHE_A_FAMILY])
							: AF_UNSPEC,
		.cached = nla_get_flag(info->attrs[CTCACHE_A_CACHED]),
	};
	unsigned long bucket = cb->args[0];
	bool full = false, end = false;

	mutex_lock(&ctc_mutex);
	while (cn->started && !full && !end) {
		spinlock_t *lock = &nf_conntrack_locks[bucket % CONNTRACK_LOCKS];

		/* The table's size and place may change only with all of its locks held. */
		rcu_read_lock();
		local_bh_disable();
		nf_conntrack_lock(lock);
		__acquire(lock);
		if (bucket < nf_conntrack_htable_size)
			full = ctc_flow_dump_bucket(skb, cb, cn, &filter,
						    &nf_conntrack_hash[bucket], &cb->args[1]);
		else
			end = true;
		spin_unlock(lock);
		local_bh_enable();
		rcu_read_unlock();
		if (!full && !end)
			bucket++;
		cond_resched();
	}
	mutex_unlock(&ctc_mutex);
	cb->args[0] = bucket;
	return skb->len;
}

/* CTCACHE_CMD_DECISION_GET. args: index, epoch. */
int ctc_decision_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct ctc_net *cn = ctc_pernet(sock_net(skb->sk));
	struct ctc_decision d;
	u32 index = cb->args[0] ?: 1;
	u32 epoch = cb->args[1] ?: READ_ONCE(cn->epoch);

	mutex_lock(&ctc_mutex);
	rcu_read_lock();
	for (; cn->started && ctc_decision_read(cn, epoch << CTC_EPOCH_SHIFT | index, &d);
	     index++) {
		void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq,
					   &ctc_genl, NLM_F_MULTI, CTCACHE_CMD_DECISION_GET);

		if (!header)
			break;
		if (ctc_put_decision(skb, ctc_config(cn), &d, CTCACHE_A_DECISION)) {
			genlmsg_cancel(skb, header);
			break;
		}
		genlmsg_end(skb, header);
	}
	rcu_read_unlock();
	mutex_unlock(&ctc_mutex);
	cb->args[0] = index;
	cb->args[1] = epoch;
	return skb->len;
}

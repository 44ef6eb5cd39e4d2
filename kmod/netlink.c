// SPDX-License-Identifier: GPL-2.0
/*
 * Control over generic netlink: uapi/nf_ctcache.h tells what the messages are.
 *
 * Every command has its own policy, and netlink checks a message against it as a whole before a
 * handler sees it: truncated, oversized and unknown attributes are refused there. Handlers refuse
 * what contradicts itself. All of them run in process context, one at a time (genl_mutex), and
 * take ctc_mutex.
 */
#include <net/genetlink.h>

#include "ctc.h"

static const struct nla_policy ctc_zone_policy[CTCACHE_ZONE_A_MAX + 1] = {
	[CTCACHE_ZONE_A_ID] = { .type = NLA_U16 },
	[CTCACHE_ZONE_A_KINDS] = NLA_POLICY_MASK(NLA_U32, CTC_KINDS),
	[CTCACHE_ZONE_A_CLASS] = { .type = NLA_U32 },
};

static struct netlink_range_validation ctc_decisions_range = {
	.min = CTCACHE_DECISIONS_MIN,
	.max = CTCACHE_DECISIONS_MAX,
};

static const struct nla_policy ctc_config_policy[CTCACHE_A_MAX + 1] = {
	[CTCACHE_A_CARRIER] = NLA_POLICY_MAX(NLA_U8, CTCACHE_CARRIER_LABELS),
	[CTCACHE_A_DECISIONS] = NLA_POLICY_FULL_RANGE(NLA_U32, &ctc_decisions_range),
	[CTCACHE_A_PROOF] = { .type = NLA_U32 },
	[CTCACHE_A_KINDS] = NLA_POLICY_MASK(NLA_U32, CTC_KINDS),
	[CTCACHE_A_CLASS] = { .type = NLA_U32 },
	[CTCACHE_A_ZONE] = NLA_POLICY_NESTED(ctc_zone_policy),
};

/* Without a policy netlink does not look at attributes; this one refuses all. */
static const struct nla_policy ctc_none_policy[CTCACHE_A_MAX + 1] = {};

static const struct nla_policy ctc_flow_policy[CTCACHE_A_MAX + 1] = {
	[CTCACHE_A_ZONE_ID] = { .type = NLA_U16 },
	[CTCACHE_A_FAMILY] = { .type = NLA_U8 },
	[CTCACHE_A_CACHED] = { .type = NLA_FLAG },
	[CTCACHE_A_TUPLE] = NLA_POLICY_NESTED(ctc_tuple_policy),
};

static const struct nla_policy ctc_flush_policy[CTCACHE_A_MAX + 1] = {
	[CTCACHE_A_ZONE_ID] = { .type = NLA_U16 },
};

static struct ctc_net *ctc_of(struct genl_info *info)
{
	return ctc_pernet(genl_info_net(info));
}

/*
 * Netlink keeps the last of two attributes; whoever says two things is refused instead. @many: the
 * type that may be there more than once, or 0.
 */
int ctc_check_once(const struct nlattr *head, int length, int many, struct netlink_ext_ack *extack)
{
	DECLARE_BITMAP(seen, CTCACHE_A_MAX + 1) = {};
	const struct nlattr *attr;
	int left;

	nla_for_each_attr(attr, head, length, left) {
		/* Types have been checked by their policy, which ends before the bitmap does. */
		if (nla_type(attr) != many && test_and_set_bit(nla_type(attr), seen)) {
			NL_SET_ERR_MSG_ATTR(extack, attr, "attribute given twice");
			return -EINVAL;
		}
	}
	return 0;
}

int ctc_check_message(struct genl_info *info)
{
	return ctc_check_once(nlmsg_attrdata(info->nlhdr, GENL_HDRLEN),
			      nlmsg_attrlen(info->nlhdr, GENL_HDRLEN), CTCACHE_A_ZONE,
			      info->extack);
}

static int ctc_parse_kinds(const struct nlattr *attr, u32 *kinds, struct netlink_ext_ack *extack)
{
	*kinds = nla_get_u32(attr);
	if (*kinds & CTCACHE_KIND_ROUTE || !*kinds)
		return 0;
	NL_SET_ERR_MSG_ATTR(extack, attr, "other kinds need routes");
	return -EINVAL;
}

static int ctc_parse_zone(struct ctc_config *config, u32 slot, const struct nlattr *attr,
			  struct netlink_ext_ack *extack)
{
	struct nlattr *tb[CTCACHE_ZONE_A_MAX + 1];
	struct ctc_zone *zone = &config->zone[slot];
	int err = nla_parse_nested(tb, CTCACHE_ZONE_A_MAX, attr, ctc_zone_policy, extack);

	err = err ?: ctc_check_once(nla_data(attr), nla_len(attr), 0, extack);
	if (err)
		return err;
	if (!tb[CTCACHE_ZONE_A_ID] || !tb[CTCACHE_ZONE_A_KINDS]) {
		NL_SET_ERR_MSG_ATTR(extack, attr, "a zone needs an id and kinds");
		return -EINVAL;
	}
	zone->id = nla_get_u16(tb[CTCACHE_ZONE_A_ID]);
	zone->class = tb[CTCACHE_ZONE_A_CLASS] ? nla_get_u32(tb[CTCACHE_ZONE_A_CLASS]) : 0;
	if (config->slot_of[zone->id]) {
		NL_SET_ERR_MSG_ATTR(extack, tb[CTCACHE_ZONE_A_ID], "zone given twice");
		return -EEXIST;
	}
	config->slot_of[zone->id] = slot;
	return ctc_parse_kinds(tb[CTCACHE_ZONE_A_KINDS], &zone->kinds, extack);
}

static int ctc_parse_zones(struct ctc_config *config, struct genl_info *info)
{
	const struct nlattr *attr;
	u32 slot = 1;
	int left, err;

	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, left) {
		if (nla_type(attr) != CTCACHE_A_ZONE)
			continue;
		err = ctc_parse_zone(config, slot++, attr, info->extack);
		if (err)
			return err;
	}
	return 0;
}

static u32 ctc_count_zones(struct genl_info *info)
{
	const struct nlattr *attr;
	u32 count = 0;
	int left;

	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, left)
		count += nla_type(attr) == CTCACHE_A_ZONE;
	return count;
}

static u32 ctc_u32_or(const struct nlattr *attr, u32 otherwise)
{
	return attr ? nla_get_u32(attr) : otherwise;
}

static struct ctc_config *ctc_parse_config(struct genl_info *info)
{
	struct ctc_config *config;
	u32 zones = ctc_count_zones(info);
	int err = ctc_check_message(info);

	if (!err && !info->attrs[CTCACHE_A_CARRIER]) {
		NL_SET_ERR_MSG(info->extack, "a configuration needs a carrier");
		err = -EINVAL;
	}
	if (!err && zones > U16_MAX) {
		NL_SET_ERR_MSG(info->extack, "more than 65535 zones");
		err = -E2BIG;
	}
	if (err)
		return ERR_PTR(err);
	config = ctc_config_alloc(zones + 1);
	if (!config)
		return ERR_PTR(-ENOMEM);
	config->carrier = nla_get_u8(info->attrs[CTCACHE_A_CARRIER]);
	config->decisions = ctc_u32_or(info->attrs[CTCACHE_A_DECISIONS], CTCACHE_DECISIONS_MAX);
	config->proof = ctc_u32_or(info->attrs[CTCACHE_A_PROOF], 0);
	config->zone[0].kinds = CTC_KINDS;
	if (info->attrs[CTCACHE_A_KINDS])
		err = ctc_parse_kinds(info->attrs[CTCACHE_A_KINDS], &config->zone[0].kinds,
				      info->extack);
	config->zone[0].class = ctc_u32_or(info->attrs[CTCACHE_A_CLASS], 0);
	err = err ?: ctc_parse_zones(config, info);
	if (err) {
		ctc_config_free(config);
		return ERR_PTR(err);
	}
	return config;
}

/* An answer of one message; @fill runs under ctc_mutex. */
static int ctc_answer(struct genl_info *info, u8 cmd, size_t size,
		      int (*fill)(struct sk_buff *, struct ctc_net *))
{
	struct sk_buff *skb = genlmsg_new(size, GFP_KERNEL);
	void *header;
	int err;

	if (!skb)
		return -ENOMEM;
	header = genlmsg_put_reply(skb, info, &ctc_genl, 0, cmd);
	mutex_lock(&ctc_mutex);
	err = header ? fill(skb, ctc_of(info)) : -EMSGSIZE;
	mutex_unlock(&ctc_mutex);
	if (err) {
		nlmsg_free(skb);
		return err;
	}
	genlmsg_end(skb, header);
	return genlmsg_reply(skb, info);
}

static int ctc_fill_generation(struct sk_buff *skb, struct ctc_net *cn)
{
	return nla_put_u64_64bit(skb, CTCACHE_A_GENERATION, cn->generation, CTCACHE_A_PAD);
}

static int ctc_config_set(struct sk_buff *skb, struct genl_info *info)
{
	struct ctc_config *config = ctc_parse_config(info);
	int err;

	if (IS_ERR(config))
		return PTR_ERR(config);
	mutex_lock(&ctc_mutex);
	err = ctc_config_apply(ctc_of(info), config, info->extack);
	mutex_unlock(&ctc_mutex);
	return err
		       ?: ctc_answer(info, CTCACHE_CMD_CONFIG_SET, GENLMSG_DEFAULT_SIZE,
				     ctc_fill_generation);
}

static int ctc_put_zone(struct sk_buff *skb, const struct ctc_zone *zone)
{
	struct nlattr *nest = nla_nest_start(skb, CTCACHE_A_ZONE);

	if (!nest || nla_put_u16(skb, CTCACHE_ZONE_A_ID, zone->id) ||
	    nla_put_u32(skb, CTCACHE_ZONE_A_KINDS, zone->kinds) ||
	    nla_put_u32(skb, CTCACHE_ZONE_A_CLASS, zone->class))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int ctc_fill_config(struct sk_buff *skb, struct ctc_net *cn)
{
	const struct ctc_config *config = ctc_config(cn);
	u32 slot;

	if (ctc_fill_generation(skb, cn) ||
	    nla_put_u8(skb, CTCACHE_A_STATE, READ_ONCE(cn->state)) ||
	    nla_put_u8(skb, CTCACHE_A_CARRIER, config ? config->carrier : CTCACHE_CARRIER_NONE))
		return -EMSGSIZE;
	if (!config)
		return 0;
	if (nla_put_u32(skb, CTCACHE_A_EPOCH, READ_ONCE(cn->epoch)) ||
	    nla_put_u32(skb, CTCACHE_A_DECISIONS, config->decisions) ||
	    nla_put_u32(skb, CTCACHE_A_PROOF, config->proof) ||
	    nla_put_u32(skb, CTCACHE_A_KINDS, config->zone[0].kinds) ||
	    nla_put_u32(skb, CTCACHE_A_CLASS, config->zone[0].class))
		return -EMSGSIZE;
	for (slot = 1; slot < config->nr_zones; slot++)
		if (ctc_put_zone(skb, &config->zone[slot]))
			return -EMSGSIZE;
	return 0;
}

static int ctc_config_get(struct sk_buff *skb, struct genl_info *info)
{
	size_t zone = nla_total_size(0) + nla_total_size(2) + 2 * nla_total_size(4);
	u32 zones;

	mutex_lock(&ctc_mutex);
	zones = ctc_config(ctc_of(info)) ? ctc_config(ctc_of(info))->nr_zones : 0;
	mutex_unlock(&ctc_mutex);
	/* genl_mutex keeps the configuration as it is. */
	return ctc_answer(info, CTCACHE_CMD_CONFIG_GET, GENLMSG_DEFAULT_SIZE + zones * zone,
			  ctc_fill_config);
}

static int ctc_put_values(struct sk_buff *skb, int attr, const u64 *values, int max)
{
	struct nlattr *nest = nla_nest_start(skb, attr);
	int i;

	if (!nest)
		return -EMSGSIZE;
	for (i = 1; i <= max; i++)
		if (nla_put_u64_64bit(skb, i, values[i], 0))
			return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int ctc_fill_stats(struct sk_buff *skb, struct ctc_net *cn)
{
	u64 stat[CTCACHE_STAT_MAX + 1] = {}, miss[CTCACHE_MISS_MAX + 1] = {},
				    cause[CTCACHE_CAUSE_MAX + 1];

	if (cn->started)
		ctc_totals(cn, stat, miss);
	spin_lock_bh(&cn->lock);
	memcpy(cause, cn->causes, sizeof(cause));
	spin_unlock_bh(&cn->lock);
	if (ctc_fill_generation(skb, cn) ||
	    nla_put_u8(skb, CTCACHE_A_STATE, READ_ONCE(cn->state)) ||
	    nla_put_u32(skb, CTCACHE_A_EPOCH, READ_ONCE(cn->epoch)) ||
	    ctc_put_values(skb, CTCACHE_A_STATS, stat, CTCACHE_STAT_MAX) ||
	    ctc_put_values(skb, CTCACHE_A_MISSES, miss, CTCACHE_MISS_MAX) ||
	    ctc_put_values(skb, CTCACHE_A_EPOCHS, cause, CTCACHE_CAUSE_MAX))
		return -EMSGSIZE;
	return 0;
}

static int ctc_stats_get(struct sk_buff *skb, struct genl_info *info)
{
	return ctc_answer(info, CTCACHE_CMD_STATS_GET, GENLMSG_DEFAULT_SIZE, ctc_fill_stats);
}

static int ctc_put_zone_stats(struct sk_buff *skb, const struct ctc_config *config, u32 slot)
{
	u64 stat[CTCACHE_STAT_LEARNED + 1] = {};
	struct ctc_counters sum;

	ctc_zone_counters(config, slot, &sum);
	stat[CTCACHE_STAT_HITS] = sum.hits;
	stat[CTCACHE_STAT_MISSES] = sum.misses;
	stat[CTCACHE_STAT_LEARNED] = sum.learned;
	if (slot && nla_put_u16(skb, CTCACHE_A_ZONE_ID, config->zone[slot].id))
		return -EMSGSIZE;
	return ctc_put_values(skb, CTCACHE_A_STATS, stat, CTCACHE_STAT_LEARNED);
}

/* args: the next slot. */
static int ctc_stats_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct ctc_net *cn = ctc_pernet(sock_net(skb->sk));
	const struct ctc_config *config;
	u32 slot = cb->args[0];

	mutex_lock(&ctc_mutex);
	config = ctc_config(cn);
	cb->seq = (u32)cn->generation + 1;
	for (; config && slot < config->nr_zones; slot++) {
		void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq,
					   &ctc_genl, NLM_F_MULTI, CTCACHE_CMD_STATS_GET);

		if (!header)
			break;
		genl_dump_check_consistent(cb, header);
		if (ctc_put_zone_stats(skb, config, slot)) {
			genlmsg_cancel(skb, header);
			break;
		}
		genlmsg_end(skb, header);
	}
	mutex_unlock(&ctc_mutex);
	cb->args[0] = slot;
	return skb->len;
}

static int ctc_flush(struct sk_buff *skb, struct genl_info *info)
{
	struct ctc_net *cn = ctc_of(info);
	const struct nlattr *zone = info->attrs[CTCACHE_A_ZONE_ID];
	int err = ctc_check_message(info);

	if (err)
		return err;
	mutex_lock(&ctc_mutex);
	if (!cn->started) {
		NL_SET_ERR_MSG(info->extack, "the cache is not configured in this namespace");
		err = -ENOENT;
	} else if (zone && cn->state != CTCACHE_STATE_LOST) {
		ctc_sweep(cn, ctc_config(cn)->carrier, nla_get_u16(zone));
	} else {
		ctc_epoch_start(cn, CTCACHE_CAUSE_FLUSH, 0);
	}
	mutex_unlock(&ctc_mutex);
	return err;
}

#ifdef CTCACHE_TEST
static struct netlink_range_validation ctc_epoch_range = {
	.min = 1,
	.max = CTC_EPOCH_MAX,
};

static const struct nla_policy ctc_fault_policy[CTCACHE_A_MAX + 1] = {
	[CTCACHE_A_FAULT] = NLA_POLICY_MASK(NLA_U32, CTCACHE_FAULT_DEAF),
	[CTCACHE_A_EPOCH] = NLA_POLICY_FULL_RANGE(NLA_U32, &ctc_epoch_range),
};

/* Not hearing what happens, and being near the end of the epochs. */
static int ctc_fault(struct sk_buff *skb, struct genl_info *info)
{
	struct ctc_net *cn = ctc_of(info);
	int err = 0;

	mutex_lock(&ctc_mutex);
	if (info->attrs[CTCACHE_A_EPOCH])
		err = ctc_epoch_skip(cn, nla_get_u32(info->attrs[CTCACHE_A_EPOCH]));
	if (!err && info->attrs[CTCACHE_A_FAULT])
		WRITE_ONCE(cn->fault, nla_get_u32(info->attrs[CTCACHE_A_FAULT]));
	mutex_unlock(&ctc_mutex);
	if (err)
		GENL_SET_ERR_MSG(info, "not an epoch to come");
	return err;
}
#endif

static const struct genl_ops ctc_ops[] = {
	{
		.cmd = CTCACHE_CMD_CONFIG_SET,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_config_set,
		.policy = ctc_config_policy,
		.maxattr = CTCACHE_A_MAX,
	},
	{
		.cmd = CTCACHE_CMD_CONFIG_GET,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_config_get,
		.policy = ctc_none_policy,
		.maxattr = CTCACHE_A_MAX,
	},
	{
		.cmd = CTCACHE_CMD_STATS_GET,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_stats_get,
		.dumpit = ctc_stats_dump,
		.policy = ctc_none_policy,
		.maxattr = CTCACHE_A_MAX,
	},
	{
		.cmd = CTCACHE_CMD_FLOW_GET,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_flow_get,
		.dumpit = ctc_flow_dump,
		.policy = ctc_flow_policy,
		.maxattr = CTCACHE_A_MAX,
	},
	{
		.cmd = CTCACHE_CMD_DECISION_GET,
		.flags = GENL_UNS_ADMIN_PERM,
		.dumpit = ctc_decision_dump,
		.policy = ctc_none_policy,
		.maxattr = CTCACHE_A_MAX,
	},
	{
		.cmd = CTCACHE_CMD_FLUSH,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_flush,
		.policy = ctc_flush_policy,
		.maxattr = CTCACHE_A_MAX,
	},
#ifdef CTCACHE_TEST
	{
		.cmd = CTCACHE_CMD_FAULT,
		.flags = GENL_UNS_ADMIN_PERM,
		.doit = ctc_fault,
		.policy = ctc_fault_policy,
		.maxattr = CTCACHE_A_MAX,
	},
#endif
};

struct genl_family ctc_genl __ro_after_init = {
	.name = CTCACHE_GENL_NAME,
	.version = CTCACHE_GENL_VERSION,
	.netnsok = true,
	.module = THIS_MODULE,
	.ops = ctc_ops,
	.n_ops = ARRAY_SIZE(ctc_ops),
	.resv_start_op = __CTCACHE_CMD_MAX,
};

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Control of nf_ctcache over generic netlink, family "nf_ctcache", version 1.
 *
 * Every network namespace has a cache and a configuration of its own; a message acts on that of
 * the socket's namespace. All commands need CAP_NET_ADMIN there. Integers are in host byte order,
 * addresses and ports in network byte order. Attributes that a command does not know are refused,
 * not ignored.
 */
#ifndef _UAPI_NF_CTCACHE_H
#define _UAPI_NF_CTCACHE_H

#define CTCACHE_GENL_NAME	"nf_ctcache"
#define CTCACHE_GENL_VERSION	1

/**
 * enum ctcache_cmd - commands
 * @CTCACHE_CMD_CONFIG_SET: replaces the whole configuration, or nothing. Takes CTCACHE_A_CARRIER,
 *	which is needed, CTCACHE_A_DECISIONS, CTCACHE_A_PROOF, CTCACHE_A_KINDS, CTCACHE_A_CLASS and
 *	any number of CTCACHE_A_ZONE; what is absent has its default. Answers with
 *	CTCACHE_A_GENERATION. CTCACHE_CARRIER_NONE switches the cache off.
 * @CTCACHE_CMD_CONFIG_GET: the configuration in force, CTCACHE_A_GENERATION, CTCACHE_A_STATE.
 * @CTCACHE_CMD_STATS_GET: a request answers with totals, a dump with one message for every
 *	configured zone, and one without CTCACHE_A_ZONE_ID for all others.
 * @CTCACHE_CMD_FLOW_GET: the descriptor of one flow, named by CTCACHE_A_TUPLE; a dump takes
 *	CTCACHE_A_ZONE_ID, CTCACHE_A_FAMILY and CTCACHE_A_CACHED as filters.
 * @CTCACHE_CMD_DECISION_GET: dump of the decisions of the present epoch.
 * @CTCACHE_CMD_FLUSH: forgets everything, or with CTCACHE_A_ZONE_ID what the flows of one zone have
 *	learned.
 * @CTCACHE_CMD_FAULT: in test builds only: CTCACHE_A_FAULT, CTCACHE_A_EPOCH.
 */
enum ctcache_cmd {
	CTCACHE_CMD_UNSPEC,
	CTCACHE_CMD_CONFIG_SET,
	CTCACHE_CMD_CONFIG_GET,
	CTCACHE_CMD_STATS_GET,
	CTCACHE_CMD_FLOW_GET,
	CTCACHE_CMD_DECISION_GET,
	CTCACHE_CMD_FLUSH,
	CTCACHE_CMD_FAULT,
	__CTCACHE_CMD_MAX,
};

#define CTCACHE_CMD_MAX (__CTCACHE_CMD_MAX - 1)

/* Where a flow's eight bytes lie. */
enum ctcache_carrier {
	CTCACHE_CARRIER_NONE,	/* nowhere: the cache is off */
	/* the conntrack extension of tc's act_ct, which must not be loaded */
	CTCACHE_CARRIER_ACT_CT,
	/* bits 64 to 127 of the connection labels, which nobody else may use */
	CTCACHE_CARRIER_LABELS,
};

enum ctcache_state {
	CTCACHE_STATE_OFF,	/* not configured */
	CTCACHE_STATE_ACTIVE,
	CTCACHE_STATE_SWEEPING,	/* clears old numbers; soon active */
	CTCACHE_STATE_LOST,	/* act_ct was loaded and took the carrier; configure another */
};

/* What is cached for a zone's flows (CTCACHE_A_KINDS). */
#define CTCACHE_KIND_ROUTE	0x1
/* what IPsec's policies say of forwarded packets; only together with routes */
#define CTCACHE_KIND_IPSEC	0x2
/*
 * where the sockets of TCP and connected UDP are, and the routes of what is delivered to other UDP
 * sockets; only together with routes. Without it that is left to the stack, unless
 * net.ipv4.ip_early_demux is off
 */
#define CTCACHE_KIND_SOCKET	0x4

/* CTCACHE_A_DECISIONS: how many different decisions a namespace may keep. */
#define CTCACHE_DECISIONS_MIN		16
#define CTCACHE_DECISIONS_MAX		65535

enum ctcache_attr {
	CTCACHE_A_UNSPEC,
	CTCACHE_A_PAD,
	CTCACHE_A_GENERATION,	/* u64: counts the configurations of this namespace */
	CTCACHE_A_STATE,	/* u8: enum ctcache_state */
	CTCACHE_A_CARRIER,	/* u8: enum ctcache_carrier */
	CTCACHE_A_DECISIONS,	/* u32 */
	/* u32: one hit in so many is looked up the slow way as well; 0: none */
	CTCACHE_A_PROOF,
	CTCACHE_A_KINDS,	/* u32: CTCACHE_KIND_*, for flows of zones that are not named */
	CTCACHE_A_CLASS,	/* u32: class of such flows */
	CTCACHE_A_ZONE,		/* nested enum ctcache_zone_attr; any number of them */
	CTCACHE_A_ZONE_ID,	/* u16 */
	CTCACHE_A_FAMILY,	/* u8: AF_INET or AF_INET6 */
	CTCACHE_A_CACHED,	/* flag: only flows that have learned in the present epoch */
	CTCACHE_A_TUPLE,	/* nested enum ctcache_tuple_attr */
	CTCACHE_A_STATS,	/* nested: totals, enum ctcache_stat, u64 each */
	CTCACHE_A_MISSES,	/* nested: enum ctcache_miss, u64 each */
	CTCACHE_A_EPOCHS,	/* nested: enum ctcache_cause, u64 each */
	CTCACHE_A_FLOW,		/* nested enum ctcache_flow_attr */
	CTCACHE_A_DECISION,	/* nested enum ctcache_decision_attr */
	CTCACHE_A_FAULT,	/* u32: CTCACHE_FAULT_* */
	CTCACHE_A_EPOCH,	/* u32: the present epoch; with CTCACHE_CMD_FAULT: start here */
	__CTCACHE_A_MAX,
};

#define CTCACHE_A_MAX (__CTCACHE_A_MAX - 1)

enum ctcache_zone_attr {
	CTCACHE_ZONE_A_UNSPEC,
	CTCACHE_ZONE_A_ID,	/* u16, needed */
	CTCACHE_ZONE_A_KINDS,	/* u32, needed: CTCACHE_KIND_* or 0 for none */
	CTCACHE_ZONE_A_CLASS,	/* u32 */
	__CTCACHE_ZONE_A_MAX,
};

#define CTCACHE_ZONE_A_MAX (__CTCACHE_ZONE_A_MAX - 1)

/* One direction of a flow, as its first packet showed it. */
enum ctcache_tuple_attr {
	CTCACHE_TUPLE_A_UNSPEC,
	CTCACHE_TUPLE_A_PROTOCOL,	/* u8, needed */
	CTCACHE_TUPLE_A_SOURCE,		/* 4 or 16 bytes, needed */
	CTCACHE_TUPLE_A_DESTINATION,	/* as many, needed */
	CTCACHE_TUPLE_A_SOURCE_PORT,	/* be16; the identifier of ICMP */
	CTCACHE_TUPLE_A_DESTINATION_PORT, /* be16; type and code of ICMP */
	CTCACHE_TUPLE_A_ZONE,		/* u16: the flow's zone, as seen from this direction */
	__CTCACHE_TUPLE_A_MAX,
};

#define CTCACHE_TUPLE_A_MAX (__CTCACHE_TUPLE_A_MAX - 1)

/* A flow's descriptor: assembled when asked for, never stored. */
enum ctcache_flow_attr {
	CTCACHE_FLOW_A_UNSPEC,
	CTCACHE_FLOW_A_PAD,
	CTCACHE_FLOW_A_ZONE,		/* u16 */
	CTCACHE_FLOW_A_CLASS,		/* u32 */
	CTCACHE_FLOW_A_FAMILY,		/* u8 */
	CTCACHE_FLOW_A_MARK,		/* u32: the connection's mark */
	CTCACHE_FLOW_A_STATUS,		/* u32: IPS_* of linux/netfilter/nf_conntrack_common.h */
	CTCACHE_FLOW_A_TIMEOUT,		/* u32: seconds */
	/* u64: ns since the epoch of Unix; with nf_conntrack_timestamp */
	CTCACHE_FLOW_A_START,
	CTCACHE_FLOW_A_ORIGINAL,	/* nested enum ctcache_direction_attr */
	CTCACHE_FLOW_A_REPLY,
	__CTCACHE_FLOW_A_MAX,
};

#define CTCACHE_FLOW_A_MAX (__CTCACHE_FLOW_A_MAX - 1)

enum ctcache_direction_attr {
	CTCACHE_DIRECTION_A_UNSPEC,
	CTCACHE_DIRECTION_A_PAD,
	CTCACHE_DIRECTION_A_TUPLE,	/* nested enum ctcache_tuple_attr */
	CTCACHE_DIRECTION_A_PACKETS,	/* u64; with nf_conntrack_acct */
	CTCACHE_DIRECTION_A_BYTES,	/* u64 */
	/* nested enum ctcache_decision_attr; absent: nothing learned */
	CTCACHE_DIRECTION_A_DECISION,
	/* the local TCP or UDP socket that receives this direction, and its owner; looked up now */
	CTCACHE_DIRECTION_A_SOCKET_INODE, /* u64; 0: of no process */
	CTCACHE_DIRECTION_A_SOCKET_UID,	/* u32: as the namespace's owner sees it */
	__CTCACHE_DIRECTION_A_MAX,
};

#define CTCACHE_DIRECTION_A_MAX (__CTCACHE_DIRECTION_A_MAX - 1)

enum ctcache_decision_attr {
	CTCACHE_DECISION_A_UNSPEC,
	CTCACHE_DECISION_A_NUMBER,	/* u32: epoch in the upper half, index in the lower */
	CTCACHE_DECISION_A_FAMILY,	/* u8 */
	CTCACHE_DECISION_A_LOCAL,	/* flag: delivered here */
	/* u16; absent: of a zone that is not named in the configuration */
	CTCACHE_DECISION_A_ZONE,
	CTCACHE_DECISION_A_IIF,		/* u32: ifindex */
	CTCACHE_DECISION_A_MARK,	/* u32 */
	CTCACHE_DECISION_A_DSCP,	/* u8 */
	CTCACHE_DECISION_A_OIF,		/* u32: ifindex */
	CTCACHE_DECISION_A_GATEWAY,	/* 4 or 16 bytes; absent: on link */
	CTCACHE_DECISION_A_MTU,		/* u32 */
	CTCACHE_DECISION_A_CLEAR,	/* flag: the policies let packets pass untransformed */
	CTCACHE_DECISION_A_POLICY,	/* u32: index of the one that has packets transformed */
	CTCACHE_DECISION_A_SPI,		/* be32: of the state that they leave with */
	CTCACHE_DECISION_A_SPI_IN,	/* be32: of the state that they came with */
	__CTCACHE_DECISION_A_MAX,
};

#define CTCACHE_DECISION_A_MAX (__CTCACHE_DECISION_A_MAX - 1)

/* Totals (CTCACHE_A_STATS); of a zone only the first three. Attribute 0 is padding. */
enum ctcache_stat {
	CTCACHE_STAT_PAD,
	CTCACHE_STAT_HITS,
	CTCACHE_STAT_MISSES,
	CTCACHE_STAT_LEARNED,		/* directions of flows that were given a decision */
	CTCACHE_STAT_DECISIONS,		/* kept now */
	CTCACHE_STAT_CAPACITY,
	CTCACHE_STAT_REFUSED,		/* dsts that cannot be shared or kept */
	CTCACHE_STAT_FULL,		/* the table had no room */
	CTCACHE_STAT_LATE,		/* learned under an epoch that was over by then */
	CTCACHE_STAT_NO_CARRIER,	/* flows whose entry had no room for the number */
	CTCACHE_STAT_SWEEPS,
	CTCACHE_STAT_PROOFS,		/* hits that were looked up as well */
	CTCACHE_STAT_MISMATCHES,	/* and came out otherwise: a bug, please report it */
	__CTCACHE_STAT_MAX,
};

#define CTCACHE_STAT_MAX (__CTCACHE_STAT_MAX - 1)

/* Why a packet of an established flow was looked up (CTCACHE_A_MISSES). */
enum ctcache_miss {
	CTCACHE_MISS_PAD,
	CTCACHE_MISS_NONE,		/* its direction has learned nothing yet */
	CTCACHE_MISS_EPOCH,		/* what it learned is of an epoch that is over */
	/* options, bridged, several times decapsulated, not to us, no room in the entry ... */
	CTCACHE_MISS_UNFIT,
	CTCACHE_MISS_ADDRESS,		/* addresses other than the flow's translation gives */
	CTCACHE_MISS_INPUT,		/* another input device */
	CTCACHE_MISS_MARK,
	CTCACHE_MISS_DSCP,
	/* rp_filter or src_valid_mark of the input device changed */
	CTCACHE_MISS_SYSCTL, /* src_valid_mark of the input device, IPv6 forwarding */
	/* the kernel gave the route up: path MTU, redirect, expiry */
	CTCACHE_MISS_OBSOLETE,
	CTCACHE_MISS_MULTIPATH,		/* a choice that depends on more than the flow */
	/* delivered here, where the stack finds a socket first (ip_early_demux), or another one */
	CTCACHE_MISS_SOCKET,
	CTCACHE_MISS_IPSEC,		/* came by another state than before, or by none */
	__CTCACHE_MISS_MAX,
};

#define CTCACHE_MISS_MAX (__CTCACHE_MISS_MAX - 1)

/* Why an epoch began (CTCACHE_A_EPOCHS). */
enum ctcache_cause {
	CTCACHE_CAUSE_PAD,
	CTCACHE_CAUSE_CONFIG,
	CTCACHE_CAUSE_FLUSH,
	CTCACHE_CAUSE_FIB4,
	CTCACHE_CAUSE_FIB6,
	CTCACHE_CAUSE_RULE,
	CTCACHE_CAUSE_NEXTHOP,
	CTCACHE_CAUSE_ADDRESS,
	CTCACHE_CAUSE_DEVICE,
	CTCACHE_CAUSE_SYSCTL,		/* hash policy, linkdown */
	CTCACHE_CAUSE_GENERATION4,	/* an IPv4 change that nothing else told of */
	CTCACHE_CAUSE_GENERATION6,
	/* the second one of an event: it has been published for certain */
	CTCACHE_CAUSE_SETTLED,
	CTCACHE_CAUSE_FULL,
	CTCACHE_CAUSE_CARRIER,
	CTCACHE_CAUSE_WRAP,
	CTCACHE_CAUSE_IPSEC,		/* states and policies */
	__CTCACHE_CAUSE_MAX,
};

#define CTCACHE_CAUSE_MAX (__CTCACHE_CAUSE_MAX - 1)

	/* events start no epoch and generations are not looked at */
#define CTCACHE_FAULT_DEAF	0x1

#endif

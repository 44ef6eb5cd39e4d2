/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For other modules: private data of theirs with every flow, kept by nf_ctcache.
 *
 * A module registers a *kind* of record. A flow that it asks a record for has one from then on,
 * zeroed at first, until the flow's conntrack entry ends; then the kind's destroy callback is
 * called and the memory goes. Flows that nobody asks a record for cost nothing. Whether the
 * namespace has a cache does not matter, nor whether the flow's zone is cached.
 *
 *	struct my_flow { atomic64_t packets; };
 *
 *	static struct nf_ctcache_kind my_kind = {
 *		.name = "my_module",
 *		.size = sizeof(struct my_flow),
 *		.destroy = my_flow_end,
 *	};
 *
 *	init:	nf_ctcache_register(&my_kind), then hooks
 *	hook:	ct = nf_ct_get(skb, &ctinfo);
 *		flow = ct ? nf_ctcache_record_make(&my_kind, ct) : NULL;
 *	exit:	hooks, then nf_ctcache_unregister(&my_kind)
 *
 * Several CPUs may have the same record at once, as packets of both directions may come at once:
 * its content is for its owner to synchronize. tests/kmod/sample/ has a whole module.
 */
#ifndef _NF_CTCACHE_H
#define _NF_CTCACHE_H

#include <linux/list.h>
#include <linux/rhashtable-types.h>
#include <linux/types.h>

struct nf_conn;

/* The most that a record can have, in bytes. */
#define NF_CTCACHE_RECORD_MAX 2048

/**
 * struct nf_ctcache_kind - a kind of record
 * @name: of the owner, for /sys/module/nf_ctcache/parameters/records; no two kinds have the same.
 * @size: of the data in a record, from 1 to %NF_CTCACHE_RECORD_MAX. Aligned to 8 bytes.
 * @init: if there is one, is called before anybody can find a new record, for what must not be
 *	zero. In the context of nf_ctcache_record_make(), so it must not sleep. It must not take
 *	anything that has to be given back: when two CPUs make a record of the same flow at once,
 *	one of the two goes without a call of @destroy.
 * @destroy: if there is one, is called once for each record, when nobody can have it any more:
 *	because the flow's entry has ended (up to some seconds ago), because its namespace goes
 *	(after the owner's own exit there), or in nf_ctcache_unregister(). In process context, never
 *	two at a time; it may sleep, but must not register or unregister kinds, nor wait for anybody
 *	who does or who removes a namespace. The entry is whole, accounting included.
 *
 * Usually static. The members above are set by the owner and must not change while the kind is
 * registered; the rest is not the owner's business.
 */
struct nf_ctcache_kind {
	const char *name;
	size_t size;
	void (*init)(void *data, const struct nf_conn *ct);
	void (*destroy)(void *data, const struct nf_conn *ct);

	/* private: of kmod/record.c */
	struct list_head list;
	struct rhashtable table;
	int kept;
	bool open;
	bool hurried;
	atomic_long_t refused;
};

/**
 * nf_ctcache_register() - register a kind of record
 * @kind: what the owner has set is described at &struct nf_ctcache_kind; the rest is written here.
 *
 * For all namespaces, those to come included. A kind that has been unregistered may be registered
 * again.
 *
 * Context: Process context. May sleep.
 * Return: 0; -EINVAL if @kind has no name or not a valid size; -EEXIST if a kind of that name is
 *	registered.
 */
int nf_ctcache_register(struct nf_ctcache_kind *kind);

/**
 * nf_ctcache_unregister() - unregister a kind of record
 * @kind: as registered.
 *
 * Destroys all of its records. When it returns, no callback of @kind is running or will be called,
 * no memory of its records is left and @kind itself may go. Hooks of the owner may still be at
 * work: they find no record any more, and make none, as long as @kind is there.
 *
 * Context: Process context. Sleeps: for an RCU grace period and as long as @kind's destroy
 *	callbacks take.
 */
void nf_ctcache_unregister(struct nf_ctcache_kind *kind);

/**
 * nf_ctcache_record_find() - the record of a flow
 * @kind: which one.
 * @ct: the flow's entry, on which the caller has a reference (as its packet has).
 *
 * Context: Any but hard interrupts, under RCU. The record may be used until rcu_read_unlock().
 * Return: the data, or NULL if the flow has no such record.
 */
void *nf_ctcache_record_find(struct nf_ctcache_kind *kind, const struct nf_conn *ct);

/**
 * nf_ctcache_record_make() - the record of a flow, which is made if there is none
 * @kind: which one.
 * @ct: the flow's entry, on which the caller has a reference (as its packet has).
 *
 * Only an entry that is in conntrack's table can have a record. The first packet of a flow gets it
 * there when it leaves the machine or is delivered (nf_confirm(), the last one in POST_ROUTING and
 * LOCAL_IN), so hooks before that ask in vain: what they learn from the first packet has to wait
 * for the second. Conntrack itself counts it, where accounting is on.
 *
 * Context: Any but hard interrupts, under RCU. The record may be used until rcu_read_unlock().
 * Return: the data; NULL if @ct is not confirmed yet, has ended or is a template, if its namespace
 *	goes, if @kind is not registered, or if there is no memory.
 */
void *nf_ctcache_record_make(struct nf_ctcache_kind *kind, struct nf_conn *ct);

#endif

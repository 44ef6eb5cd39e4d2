// SPDX-License-Identifier: GPL-2.0
/*
 * Records: private data of other modules with a flow (include/nf_ctcache.h).
 *
 * Where the pointer lives. Each kind has a hash table of its own, by the address of the conntrack
 * entry. The flow's eight bytes (carrier.c) cannot lead there: an entry can be given them only
 * while it is unconfirmed, act_ct may take them away at any time, a namespace without a
 * configuration has none, and who reads them on a hit would have to tell numbers from records. So
 * flows without records pay nothing, the cache's hit knows nothing of this file, and whoever keeps
 * a record pays for finding it: a bucket, and the record itself.
 *
 * Who keeps what alive. A record holds a reference on its entry. That is what makes the address an
 * identity: the memory of entries is recycled at once (SLAB_TYPESAFE_BY_RCU), but not while the
 * record is in the table; and without it no entry could be looked at safely after its end, since
 * conntrack tells nobody: its notifier has one owner, ctnetlink, and extensions have no destructors
 * any more. The caller of find or make has a reference of its own, and borrows the record until the
 * end of its RCU section. The table holds the record; whoever takes it out, which only one can,
 * destroys it after a grace period, and only then puts the entry.
 *
 * The end. An entry that ends is marked as dying and leaves conntrack's table, in whatever way it
 * ends (nf_ct_delete()). A *look* goes over the records and takes out those of dying entries. Looks
 * are made by one work item: once a second while there are records, less often if there are very
 * many, and at once when a quarter as many records have come since the last one as it had left. So
 * an end waits for some seconds, entries that wait do not pile up even in a flood of new flows, and
 * each new record costs four glances at others. Until then such entries count as entries
 * (nf_conntrack_count). A dying entry gets no record any more, so destroy is called once for a flow
 * and kind, unless the kind is registered anew.
 *
 * Only confirmed entries get a record. Of others the kernel counts the references, to see whether a
 * clone of their packet is about: NFQUEUE drops packets of unconfirmed entries that are shared
 * (nf_ct_drop_unconfirmed()), bridges make them forget their flow (br_nf_local_in()). Besides,
 * packets that the rules drop, those of a SYN flood for example, leave no record behind.
 *
 * Contexts. find and make: any but hard interrupts, under RCU; make allocates with GFP_ATOMIC. All
 * else is in process context under ctc_record_mutex, destroy callbacks included.
 *
 * Namespaces. Conntrack's exit spins until the last entry is gone, so records are gone before:
 * ctc_record_leave() in our exit, which runs first, because we were registered later. In a
 * namespace with no reference left (check_net()) no record is made, and whoever had not seen that
 * is done by then: before any exit there is a grace period (cleanup_net()).
 *
 * Unregistering. The kind is closed; after a grace period nobody is in its table any more; all that
 * is left there is destroyed, in the caller's context. There is no RCU callback in here, so nothing
 * of a module's text or data can be used later. nf_ctcache itself cannot go while somebody uses its
 * symbols; when it goes there are no kinds, and the work is cancelled.
 *
 * Memory. If it cannot be had for a record, make returns NULL and counts that; the flow's next
 * packet tries again. If the table cannot grow it gets slower, and at some length of its chains
 * refuses as well. Destroying needs none.
 */
#include <linux/moduleparam.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>
#include <net/netfilter/nf_conntrack.h>

#include "ctc.h"
#include "include/nf_ctcache.h"

#define CTC_LOOK_INTERVAL HZ
#define CTC_LOOK_RATE	  250000 /* another interval for so many records: a few percent of a CPU */
#define CTC_LOOK_NEW	  256	 /* so many new records are no reason for a look at once */
#define CTC_LOOK_REST	  512	 /* records between two chances for others to run */

struct ctc_record {
	struct rhash_head node;
	struct nf_conn *ct;	 /* a reference; the key */
	struct ctc_record *next; /* out of the table, waiting for the grace period */
	u8 data[] __aligned(8);
};

static const struct rhashtable_params ctc_record_params = {
	.head_offset = offsetof(struct ctc_record, node),
	.key_offset = offsetof(struct ctc_record, ct),
	.key_len = sizeof_field(struct ctc_record, ct),
	.automatic_shrinking = true,
};

/* Guards the list, everything that takes records out of a table, and destroy callbacks. */
static DEFINE_MUTEX(ctc_record_mutex);
static LIST_HEAD(ctc_kinds);

static void ctc_look_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(ctc_look, ctc_look_work);

/* Whether there is a table, for as long as the caller's RCU section lasts. */
static bool ctc_kind_open(const struct nf_ctcache_kind *kind)
{
	/* Pairs with nf_ctcache_register(): what is in the kind. */
	return likely(smp_load_acquire(&kind->open));
}

static struct ctc_record *ctc_record_find(struct nf_ctcache_kind *kind, const struct nf_conn *ct)
{
	return ctc_kind_open(kind) ? rhashtable_lookup(&kind->table, &ct, ctc_record_params) : NULL;
}

void *nf_ctcache_record_find(struct nf_ctcache_kind *kind, const struct nf_conn *ct)
{
	struct ctc_record *record = ctc_record_find(kind, ct);

	return record ? record->data : NULL;
}
EXPORT_SYMBOL_GPL(nf_ctcache_record_find);

/* There is a new record: sees to it that there will be a look, and at once if there are many. */
static void ctc_look_later(struct nf_ctcache_kind *kind)
{
	int kept = READ_ONCE(kind->kept);
	int fresh = atomic_read(&kind->table.nelems) - kept;

	if (likely(fresh < max(kept / 4, CTC_LOOK_NEW))) {
		queue_delayed_work(system_unbound_wq, &ctc_look, CTC_LOOK_INTERVAL);
	} else if (!READ_ONCE(kind->hurried)) {
		WRITE_ONCE(kind->hurried, true);
		mod_delayed_work(system_unbound_wq, &ctc_look, 0);
	}
}

static bool ctc_record_allowed(const struct nf_conn *ct)
{
	unsigned long status = READ_ONCE(ct->status);

	return (status & (IPS_CONFIRMED | IPS_DYING | IPS_TEMPLATE)) == IPS_CONFIRMED &&
	       check_net(nf_ct_net(ct));
}

void *nf_ctcache_record_make(struct nf_ctcache_kind *kind, struct nf_conn *ct)
{
	struct ctc_record *record = ctc_record_find(kind, ct), *other;

	if (likely(record))
		return record->data;
	if (!ctc_kind_open(kind) || !ctc_record_allowed(ct))
		return NULL;
	record = kzalloc(sizeof(*record) + kind->size, GFP_ATOMIC | __GFP_NOWARN);
	if (!record)
		goto refused;
	if (kind->init)
		kind->init(record->data, ct);
	record->ct = ct;
	nf_conntrack_get(&ct->ct_general);
	other = rhashtable_lookup_get_insert_fast(&kind->table, &record->node, ctc_record_params);
	if (unlikely(other)) {
		kfree(record);
		nf_ct_put(ct);
		if (IS_ERR(other))
			goto refused;
		return other->data;
	}
	ctc_look_later(kind);
	return record->data;

refused:
	atomic_long_inc(&kind->refused);
	return NULL;
}
EXPORT_SYMBOL_GPL(nf_ctcache_record_make);

/* Only when nobody can have it any more. */
static void ctc_record_destroy(struct nf_ctcache_kind *kind, struct ctc_record *record)
{
	if (kind->destroy)
		kind->destroy(record->data, record->ct);
	nf_ct_put(record->ct);
	kfree(record);
}

static bool ctc_record_ended(const struct nf_ctcache_kind *kind, const struct ctc_record *record,
			     const struct net *net)
{
	if (net)
		return net_eq(nf_ct_net(record->ct), net);
	return nf_ct_is_dying(record->ct) || !kind->open;
}

/*
 * Destroys the records of entries that have ended; those of @net, if it is given; all, if the kind
 * is closed. Returns how many: what is removed may make the walk step over some others, for the
 * next time, so only when it was 0 there are none.
 */
static u32 ctc_records_end(struct nf_ctcache_kind *kind, const struct net *net)
{
	struct ctc_record *record, *ended = NULL;
	struct rhashtable_iter iter;
	u32 count = 0, seen = 0;

	lockdep_assert_held(&ctc_record_mutex);
	rhashtable_walk_enter(&kind->table, &iter);
	rhashtable_walk_start(&iter);
	while ((record = rhashtable_walk_next(&iter))) {
		if (IS_ERR(record))
			continue; /* The table is being resized, the walk begins anew. */
		if (ctc_record_ended(kind, record, net) &&
		    !rhashtable_remove_fast(&kind->table, &record->node, ctc_record_params)) {
			record->next = ended;
			ended = record;
			count++;
		}
		if (++seen % CTC_LOOK_REST == 0) {
			rhashtable_walk_stop(&iter);
			cond_resched();
			rhashtable_walk_start(&iter);
		}
	}
	rhashtable_walk_stop(&iter);
	rhashtable_walk_exit(&iter);
	if (ended)
		synchronize_rcu();
	while ((record = ended)) {
		ended = record->next;
		ctc_record_destroy(kind, record);
		cond_resched();
	}
	return count;
}

static void ctc_look_work(struct work_struct *work)
{
	struct nf_ctcache_kind *kind;
	unsigned long kept = 0;

	mutex_lock(&ctc_record_mutex);
	list_for_each_entry(kind, &ctc_kinds, list) {
		WRITE_ONCE(kind->hurried, false);
		ctc_records_end(kind, NULL);
		WRITE_ONCE(kind->kept, atomic_read(&kind->table.nelems));
		kept += kind->kept;
	}
	mutex_unlock(&ctc_record_mutex);
	if (kept)
		queue_delayed_work(system_unbound_wq, &ctc_look,
				   CTC_LOOK_INTERVAL * (1 + kept / CTC_LOOK_RATE));
}

/* Process context, in the exit of @net, before conntrack's. */
void ctc_record_leave(const struct net *net)
{
	struct nf_ctcache_kind *kind;

	mutex_lock(&ctc_record_mutex);
	list_for_each_entry(kind, &ctc_kinds, list)
		while (ctc_records_end(kind, net))
			cond_resched();
	mutex_unlock(&ctc_record_mutex);
}

/* No kind is registered any more. */
void ctc_record_exit(void)
{
	cancel_delayed_work_sync(&ctc_look);
}

static int ctc_kind_check(const struct nf_ctcache_kind *kind)
{
	const struct nf_ctcache_kind *other;

	if (!kind->name || !*kind->name || !kind->size || kind->size > NF_CTCACHE_RECORD_MAX)
		return -EINVAL;
	list_for_each_entry(other, &ctc_kinds, list)
		if (!strcmp(other->name, kind->name))
			return -EEXIST;
	return 0;
}

int nf_ctcache_register(struct nf_ctcache_kind *kind)
{
	int err;

	mutex_lock(&ctc_record_mutex);
	err = ctc_kind_check(kind);
	if (!err)
		err = rhashtable_init(&kind->table, &ctc_record_params);
	if (!err) {
		kind->kept = 0;
		kind->hurried = false;
		atomic_long_set(&kind->refused, 0);
		list_add_tail(&kind->list, &ctc_kinds);
		/* Pairs with ctc_record_find(). */
		smp_store_release(&kind->open, true);
	}
	mutex_unlock(&ctc_record_mutex);
	return err;
}
EXPORT_SYMBOL_GPL(nf_ctcache_register);

void nf_ctcache_unregister(struct nf_ctcache_kind *kind)
{
	mutex_lock(&ctc_record_mutex);
	WRITE_ONCE(kind->open, false);
	synchronize_rcu();
	list_del(&kind->list);
	while (ctc_records_end(kind, NULL))
		cond_resched();
	rhashtable_destroy(&kind->table);
	mutex_unlock(&ctc_record_mutex);
}
EXPORT_SYMBOL_GPL(nf_ctcache_unregister);

/* A line for each kind: its name, how many records there are, how many could not be had. */
static int ctc_records_show(char *buffer, const struct kernel_param *param)
{
	const struct nf_ctcache_kind *kind;
	int length = 0;

	mutex_lock(&ctc_record_mutex);
	list_for_each_entry(kind, &ctc_kinds, list)
		length += scnprintf(buffer + length, PAGE_SIZE - length, "%s %d %ld\n", kind->name,
				    atomic_read(&kind->table.nelems),
				    atomic_long_read(&kind->refused));
	mutex_unlock(&ctc_record_mutex);
	return length;
}

static const struct kernel_param_ops ctc_records_ops = { .get = ctc_records_show };
module_param_cb(records, &ctc_records_ops, NULL, 0444);
MODULE_PARM_DESC(records, "Private data of other modules: name, records, records not had");

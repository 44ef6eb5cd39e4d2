// SPDX-License-Identifier: GPL-2.0
/*
 * Decisions and epochs.
 *
 * The decisions of the present epoch are the slots 1 to used-1 of a table. A slot is written once
 * in an epoch, under the lock, and read without: number first and last, as one reads under a
 * sequence counter. Whoever holds a number of an epoch that is over does not get past the epoch,
 * so slots need not be cleared; their references are given back when the epoch ends, and the
 * memory behind them lives on until readers have left their RCU sections.
 *
 * Numbers are exact as long as 15 bits do not wrap. Before they do, the epoch becomes 0, nothing
 * hits, and a sweep (sweep.c) clears every number of the namespace.
 */
#include <net/dst.h>
#include <net/xfrm.h>

#include "ctc.h"

/*
 * A table that is full is emptied, for the flows that live to learn anew, but not more often than
 * this.
 */
#define CTC_FULL_INTERVAL (10 * HZ)

struct ctc_table *ctc_table_alloc(u32 decisions)
{
	u32 buckets = roundup_pow_of_two(decisions);
	struct ctc_table *table;

	table = kvzalloc(struct_size(table, slot, decisions + 1), GFP_KERNEL_ACCOUNT);
	if (!table)
		return NULL;
	table->bucket = kvcalloc(buckets, sizeof(*table->bucket), GFP_KERNEL_ACCOUNT);
	if (!table->bucket) {
		kvfree(table);
		return NULL;
	}
	table->size = decisions + 1;
	table->bucket_mask = buckets - 1;
	return table;
}

/* Only when no reader can have it any more, and it holds no references. */
void ctc_table_free(struct ctc_table *table)
{
	if (!table)
		return;
	kvfree(table->bucket);
	kvfree(table);
}

static struct ctc_table *ctc_table(struct ctc_net *cn)
{
	return rcu_dereference_protected(cn->table, lockdep_is_held(&cn->lock));
}

static void ctc_dst_free(struct rcu_head *head)
{
	dst_release(container_of(head, struct dst_entry, rcu_head));
}

/*
 * A dst that only the decision has is still with packets on their way, which may have to take a
 * reference (skb_dst_force()); nobody else uses its head while there is one.
 */
static void ctc_dst_put(const struct ctc_decision *d)
{
	if (d->key.ipsec)
		call_rcu(&d->dst->rcu_head, ctc_dst_free);
	else
		dst_release(d->dst);
}

static void ctc_release(struct ctc_net *cn)
{
	struct ctc_table *table = ctc_table(cn);
	u32 i;

	lockdep_assert_held(&cn->lock);
	for (i = 1; i < cn->used; i++) {
		struct ctc_decision *d = &table->slot[i];

		ctc_dst_put(d);
		dst_release(d->route);
#if CTC_XFRM
		if (d->state)
			xfrm_state_put(d->state);
#endif
#if CTC_IPV6
		if (d->f6i)
			fib6_info_release(d->f6i);
#endif
	}
	cn->used = 1;
}

/*
 * Ends the epoch and begins @epoch (0: none). The generations are read before and published after
 * it, so that a packet that finds them unchanged is under an epoch that began after that change.
 */
static void ctc_epoch_set(struct ctc_net *cn, u32 epoch, enum ctcache_cause cause)
{
	u32 genid4 = ctc_generation(cn->net, AF_INET);
	u32 genid6 = ctc_generation(cn->net, AF_INET6);

	lockdep_assert_held(&cn->lock);
	/* Pairs with ctc_epoch(), which reads them in the opposite order. */
	smp_store_release(&cn->epoch, epoch);
	/* As above. */
	smp_store_release(&cn->genid[0], genid4);
	/* As above. */
	smp_store_release(&cn->genid[1], genid6);
	ctc_release(cn);
	cn->causes[cause]++;
}

static bool ctc_generation_known(const struct ctc_net *cn, enum ctcache_cause cause)
{
	if (cause == CTCACHE_CAUSE_GENERATION4)
		return cn->genid[0] == ctc_generation(cn->net, AF_INET);
	if (cause == CTCACHE_CAUSE_GENERATION6)
		return cn->genid[1] == ctc_generation(cn->net, AF_INET6);
	return false;
}

static void ctc_epoch_wrap(struct ctc_net *cn)
{
	ctc_epoch_set(cn, 0, CTCACHE_CAUSE_WRAP);
	cn->state = CTCACHE_STATE_SWEEPING;
	queue_work(system_unbound_wq, &cn->sweep);
}

/*
 * Any context but hard interrupts. When it returns, no number of before is valid and no reference
 * of before is held.
 *
 * Most notifiers run before the change can be seen by a lookup, which would learn the old state
 * under the new epoch. So the event names the families (@quiet) in which nothing is learned until
 * the kernel's generation has moved, which it does right after the change, or the second epoch of
 * the event (CTCACHE_CAUSE_SETTLED) begins.
 */
void ctc_epoch_start(struct ctc_net *cn, enum ctcache_cause cause, u8 quiet)
{
	if (READ_ONCE(cn->fault) & CTCACHE_FAULT_DEAF)
		return;
	spin_lock_bh(&cn->lock);
	/* In a sweep, too: the next epoch may begin before the change can be seen. */
	if (quiet) {
		cn->quiet |= quiet;
		cn->announced++;
	} else if (cause == CTCACHE_CAUSE_SETTLED && cn->announced == cn->settling) {
		cn->quiet = 0;
	}
	if (cn->state == CTCACHE_STATE_ACTIVE && !ctc_generation_known(cn, cause)) {
		if (cause == CTCACHE_CAUSE_GENERATION4)
			cn->quiet &= ~CTC_QUIET_4;
		else if (cause == CTCACHE_CAUSE_GENERATION6)
			cn->quiet &= ~CTC_QUIET_6;
		if (cn->epoch < CTC_EPOCH_MAX)
			ctc_epoch_set(cn, cn->epoch + 1, cause);
		else
			ctc_epoch_wrap(cn);
	}
	spin_unlock_bh(&cn->lock);
}

#ifdef CTCACHE_TEST
/* Goes on to @epoch. Never back: numbers of epochs that were are still in the flows. */
int ctc_epoch_skip(struct ctc_net *cn, u32 epoch)
{
	int err = -EINVAL;

	spin_lock_bh(&cn->lock);
	if (cn->state == CTCACHE_STATE_ACTIVE && epoch > cn->epoch) {
		ctc_epoch_set(cn, epoch, CTCACHE_CAUSE_CONFIG);
		err = 0;
	}
	spin_unlock_bh(&cn->lock);
	return err;
}
#endif

/*
 * Nothing hits or is learned from now on; synchronize_net() waits for packets that are on their
 * way.
 */
void ctc_epoch_stop(struct ctc_net *cn, u8 state)
{
	spin_lock_bh(&cn->lock);
	ctc_epoch_set(cn, 0, CTCACHE_CAUSE_CARRIER);
	cn->state = state;
	spin_unlock_bh(&cn->lock);
}

/*
 * Makes @table the table and starts @epoch on it, or the next one (0); the caller frees the
 * former table after a grace period. Process context under ctc_mutex.
 */
void ctc_epoch_install(struct ctc_net *cn, struct ctc_table *table, u32 epoch,
		       enum ctcache_cause cause)
{
	spin_lock_bh(&cn->lock);
	ctc_release(cn);
	memset(table->bucket, 0, (table->bucket_mask + 1) * sizeof(*table->bucket));
	rcu_assign_pointer(cn->table, table);
	if (!epoch && cn->state == CTCACHE_STATE_ACTIVE && cn->epoch < CTC_EPOCH_MAX)
		epoch = cn->epoch + 1;
	if (!epoch) {
		/* The epochs have wrapped in the meantime; the sweep goes on from here. */
		ctc_epoch_wrap(cn);
		spin_unlock_bh(&cn->lock);
		return;
	}
	cn->state = CTCACHE_STATE_ACTIVE;
	ctc_epoch_set(cn, epoch, cause);
	spin_unlock_bh(&cn->lock);
}

u32 ctc_decisions(struct ctc_net *cn)
{
	return READ_ONCE(cn->used) - 1;
}

/*
 * The number of a decision of @epoch, or 0. Needs no lock: what is read under a number is its
 * content if the number is still there afterwards, and a number of an epoch that ends meanwhile is
 * void by itself. Each next one is older, so the walk ends.
 */
static u32 ctc_find(const struct ctc_table *table, u32 epoch, u32 hash, const struct ctc_key *key,
		    const struct ctc_found *found)
{
	u32 number = READ_ONCE(table->bucket[hash & table->bucket_mask]);

	while (number && number >> CTC_EPOCH_SHIFT == epoch) {
		const struct ctc_decision *d = &table->slot[number & CTC_INDEX_MASK];
		const struct dst_entry *route, *dst;
		bool candidate, shareable;
		u32 next;

		if (READ_ONCE(d->number) != number)
			return 0;
		smp_rmb(); /* pairs with ctc_insert() */
		candidate = d->hash == hash && !memcmp(&d->key, key, sizeof(*key)) &&
			    d->state == found->state;
		shareable = key->family == AF_INET6 && !d->f6i;
		route = d->route;
		dst = d->dst;
		next = d->next;
		smp_rmb(); /* pairs with ctc_fill() */
		if (READ_ONCE(d->number) != number)
			return 0;
		if (candidate &&
		    (route == found->route ||
		     (shareable && ctc_route_shared(route, found->route))) &&
		    (!found->bundle || ctc_bundle_same(dst, found->bundle)))
			return number;
		number = next;
	}
	return 0;
}

static u32 ctc_hash(const struct ctc_key *key, const struct ctc_found *found)
{
	u64 word[2], what = ctc_route_hash(found->route, key->family);

	BUILD_BUG_ON(sizeof(*key) != sizeof(word));
	memcpy(word, key, sizeof(word));
	if (unlikely(found->bundle))
		what += (uintptr_t)found->bundle->xfrm;
	what += (uintptr_t)found->state;
	return hash_64(word[0] * GOLDEN_RATIO_64 + word[1] + what, 32);
}

/* Takes over the caller's reference on @dst and one on the others, or nothing. */
static bool ctc_fill(struct ctc_decision *d, const struct ctc_key *key,
		     const struct ctc_found *found, struct dst_entry *dst, struct fib6_info *f6i)
{
	if (!dst_hold_safe(found->route))
		return false;
#if CTC_IPV6
	if (f6i && !fib6_info_hold_safe(f6i)) {
		dst_release(found->route);
		return false;
	}
#endif
#if CTC_XFRM
	if (found->state)
		xfrm_state_hold(found->state);
#endif
	WRITE_ONCE(d->number, 0);
	smp_wmb(); /* pairs with ctc_lookup() and ctc_find(): void before it changes */
	d->key = *key;
	d->dst = dst;
	d->route = found->route;
	d->state = found->state;
	d->f6i = f6i;
	return true;
}

static u32 ctc_insert(struct ctc_net *cn, struct ctc_table *table, u32 hash,
		      const struct ctc_key *key, const struct ctc_found *found,
		      struct dst_entry *dst, struct fib6_info *f6i)
{
	u32 number = cn->epoch << CTC_EPOCH_SHIFT | cn->used;
	u32 *bucket = &table->bucket[hash & table->bucket_mask];
	struct ctc_decision *d = &table->slot[cn->used];

	if (cn->used == table->size) {
		ctc_count(cn, CTCACHE_STAT_FULL);
		if (time_after(jiffies, cn->full_at + CTC_FULL_INTERVAL) &&
		    cn->epoch < CTC_EPOCH_MAX) {
			cn->full_at = jiffies;
			ctc_epoch_set(cn, cn->epoch + 1, CTCACHE_CAUSE_FULL);
		}
		return 0;
	}
	if (!ctc_fill(d, key, found, dst, f6i)) {
		ctc_count(cn, CTCACHE_STAT_REFUSED);
		return 0;
	}
	d->hash = hash;
	d->next = *bucket;
	smp_wmb(); /* pairs with ctc_lookup() and ctc_find(): whole before it is valid */
	WRITE_ONCE(d->number, number);
	WRITE_ONCE(*bucket, number);
	WRITE_ONCE(cn->used, cn->used + 1);
	return number;
}

/* Under ctc_net.lock. Takes over the caller's reference on @dst if it returns a new number. */
static u32 ctc_intern_locked(struct ctc_net *cn, u32 epoch, u32 hash, const struct ctc_key *key,
			     const struct ctc_found *found, struct dst_entry **dst,
			     struct fib6_info *f6i)
{
	struct ctc_table *table = ctc_table(cn);
	u32 number;

	if (!epoch || cn->epoch != epoch ||
	    cn->quiet & (key->family == AF_INET ? CTC_QUIET_4 : CTC_QUIET_6)) {
		ctc_count(cn, CTCACHE_STAT_LATE);
		return 0;
	}
	number = ctc_find(table, epoch, hash, key, found);
	if (number)
		return number;
	number = ctc_insert(cn, table, hash, key, found, *dst, f6i);
	if (number)
		*dst = NULL;
	return number;
}

/*
 * The number of the decision for @key and @found, which is made if there is none; 0 when it cannot
 * be. They must be what lookups found that began after @epoch was read; in a later epoch nothing is
 * learned from them. Under RCU.
 */
u32 ctc_intern(struct ctc_net *cn, u32 epoch, const struct ctc_key *key,
	       const struct ctc_found *found)
{
	u32 hash = ctc_hash(key, found);
	u32 number = ctc_find(rcu_dereference(cn->table), epoch, hash, key, found);
	struct dst_entry *dst;
	struct fib6_info *f6i;

	if (likely(number))
		return number;
	if (!ctc_route_keep(cn, key, found->route, &f6i))
		goto refused;
	if (key->ipsec)
		dst = ctc_ipsec_dst(key, found);
	else
		dst = dst_hold_safe(found->route) ? found->route : NULL;
	if (!dst)
		goto refused;
	spin_lock_bh(&cn->lock);
	number = ctc_intern_locked(cn, epoch, hash, key, found, &dst, f6i);
	spin_unlock_bh(&cn->lock);
	dst_release(dst);
	return number;

refused:
	ctc_count(cn, CTCACHE_STAT_REFUSED);
	return 0;
}

/*
 * Copies a decision of the present epoch. Under RCU, for which time the copy's pointers are good.
 */
bool ctc_decision_read(struct ctc_net *cn, u32 number, struct ctc_decision *copy)
{
	u32 index = number & CTC_INDEX_MASK;
	bool found = false;

	spin_lock_bh(&cn->lock);
	if (cn->epoch && number >> CTC_EPOCH_SHIFT == cn->epoch && index && index < cn->used) {
		*copy = ctc_table(cn)->slot[index];
		found = true;
	}
	spin_unlock_bh(&cn->lock);
	return found;
}

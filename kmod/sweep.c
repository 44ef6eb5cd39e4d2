// SPDX-License-Identifier: GPL-2.0
/*
 * The sweep: clears the numbers in a namespace's conntrack entries.
 *
 * It is needed where numbers could be taken for something else: before the first epoch (a former
 * life of the module may have left some), when the 15 bits of the epochs are used up, when the
 * carrier goes to somebody else, and to flush one zone. Nothing is learned meanwhile (the epoch
 * is 0), except in the last case, where a flow that learns behind the sweep's back has just been
 * looked up. Entries that are not in the table are unconfirmed, and have no number, or dying, and
 * never hit.
 */
#include <net/netfilter/nf_conntrack_core.h>
#include <net/netfilter/nf_conntrack_zones.h>

#include "ctc.h"

struct ctc_sweep_filter {
	u8 carrier;
	int zone;
};

/* Under nf_conntrack's bucket lock; never asks for the entry's death. */
static int ctc_sweep_one(struct nf_conn *ct, void *data)
{
	const struct ctc_sweep_filter *filter = data;
	struct ctc_flow *flow;

	if (filter->zone != CTC_ALL_ZONES && nf_ct_zone(ct)->id != filter->zone)
		return 0;
	flow = ctc_flow_find(ct, filter->carrier);
	if (flow) {
		WRITE_ONCE(flow->number[IP_CT_DIR_ORIGINAL], 0);
		WRITE_ONCE(flow->number[IP_CT_DIR_REPLY], 0);
	}
	return 0;
}

/* Process context. @zone may be CTC_ALL_ZONES. */
void ctc_sweep(struct ctc_net *cn, u8 carrier, int zone)
{
	struct ctc_sweep_filter filter = { .carrier = carrier, .zone = zone };
	struct nf_ct_iter_data data = { .net = cn->net, .data = &filter };

	nf_ct_iterate_cleanup_net(ctc_sweep_one, &data);
	spin_lock_bh(&cn->lock);
	cn->sweeps++;
	spin_unlock_bh(&cn->lock);
}

/* The epochs have wrapped: clears all numbers and starts over with epoch 1. */
void ctc_sweep_work(struct work_struct *work)
{
	struct ctc_net *cn = container_of(work, struct ctc_net, sweep);
	struct ctc_table *table;

	mutex_lock(&ctc_mutex);
	/* A new configuration may have swept already. */
	if (cn->started && READ_ONCE(cn->state) == CTCACHE_STATE_SWEEPING) {
		table = rcu_dereference_protected(cn->table, lockdep_is_held(&ctc_mutex));
		/* Packets on their way may still write numbers of the last epoch. */
		synchronize_net();
		ctc_sweep(cn, ctc_config(cn)->carrier, CTC_ALL_ZONES);
		ctc_epoch_install(cn, table, 1, CTCACHE_CAUSE_WRAP);
	}
	mutex_unlock(&ctc_mutex);
}

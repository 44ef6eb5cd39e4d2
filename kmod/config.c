// SPDX-License-Identifier: GPL-2.0
/*
 * Configurations: whole, immutable, swapped under RCU.
 *
 * A new one takes the place of the old one in one step and starts a new epoch, since decisions
 * hold slots of the old one. The carrier cannot be changed in flight (numbers would stay behind
 * in the old one), so such a change stops the cache, clears the old carrier and starts on the new
 * one. Whatever can fail is done before anything is touched.
 */
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/netlink.h>
#include <linux/slab.h>

#include "ctc.h"

/* With @nr_zones slots, of which 0 stands for all zones that are not named. */
struct ctc_config *ctc_config_alloc(u32 nr_zones)
{
	struct ctc_config *config = kzalloc(sizeof(*config), GFP_KERNEL_ACCOUNT);
	int cpu;

	if (!config)
		return NULL;
	config->nr_zones = nr_zones;
	config->slot_of = kvcalloc(U16_MAX + 1, sizeof(*config->slot_of), GFP_KERNEL_ACCOUNT);
	config->zone = kvcalloc(nr_zones, sizeof(*config->zone), GFP_KERNEL_ACCOUNT);
	config->counters = kcalloc(nr_cpu_ids, sizeof(*config->counters), GFP_KERNEL_ACCOUNT);
	if (!config->slot_of || !config->zone || !config->counters)
		goto out_free;
	for_each_possible_cpu(cpu) {
		config->counters[cpu] =
			kvcalloc(nr_zones, sizeof(**config->counters), GFP_KERNEL_ACCOUNT);
		if (!config->counters[cpu])
			goto out_free;
	}
	return config;

out_free:
	ctc_config_free(config);
	return NULL;
}

/* Only when no reader can have it. */
void ctc_config_free(struct ctc_config *config)
{
	int cpu;

	if (!config)
		return;
	if (config->counters)
		for_each_possible_cpu(cpu)
			kvfree(config->counters[cpu]);
	kfree(config->counters);
	kvfree(config->zone);
	kvfree(config->slot_of);
	kfree(config);
}

/* What zones have counted under @old goes on under @config. */
static void ctc_config_inherit(struct ctc_config *config, const struct ctc_config *old)
{
	struct ctc_counters sum;
	u32 slot;

	for (slot = 0; slot < old->nr_zones; slot++) {
		/* A zone that is not named any more counts on among the others. */
		u32 to = slot ? config->slot_of[old->zone[slot].id] : 0;

		ctc_zone_counters(old, slot, &sum);
		config->zone[to].before.hits += sum.hits;
		config->zone[to].before.misses += sum.misses;
		config->zone[to].before.learned += sum.learned;
	}
}

/* The first configuration: brings the cache up, or fails and leaves nothing behind. */
static int ctc_config_start(struct ctc_net *cn, struct ctc_config *config, struct ctc_table *table,
			    struct netlink_ext_ack *extack)
{
	int err;

	/* Hooks find a configuration and a table from their first packet on, and epoch 0. */
	rcu_assign_pointer(cn->config, config);
	rcu_assign_pointer(cn->table, table);
	err = ctc_net_start(cn, extack);
	if (err) {
		RCU_INIT_POINTER(cn->config, NULL);
		RCU_INIT_POINTER(cn->table, NULL);
		synchronize_net();
		return err;
	}
	/* Numbers of a former life of the module. */
	ctc_sweep(cn, config->carrier, CTC_ALL_ZONES);
	ctc_epoch_install(cn, table, 1, CTCACHE_CAUSE_CONFIG);
	return 0;
}

/* Another configuration: flows go on, and learn once more. Nothing in here can fail. */
static void ctc_config_swap(struct ctc_net *cn, struct ctc_config *config, struct ctc_table *table)
{
	struct ctc_config *old = ctc_config(cn);
	struct ctc_table *old_table =
		rcu_dereference_protected(cn->table, lockdep_is_held(&ctc_mutex));
	u32 epoch = READ_ONCE(cn->epoch);

	if (old->carrier == config->carrier && epoch && epoch < CTC_EPOCH_MAX) {
		rcu_assign_pointer(cn->config, config);
		/* Meanwhile there may have been epochs; this one only has to be new. */
		ctc_epoch_install(cn, table, 0, CTCACHE_CAUSE_CONFIG);
	} else {
		bool lost = cn->state == CTCACHE_STATE_LOST;

		ctc_epoch_stop(cn, CTCACHE_STATE_SWEEPING);
		synchronize_net();
		if (!lost)
			ctc_sweep(cn, old->carrier, CTC_ALL_ZONES);
		rcu_assign_pointer(cn->config, config);
		ctc_sweep(cn, config->carrier, CTC_ALL_ZONES);
		ctc_epoch_install(cn, table, 1, CTCACHE_CAUSE_CONFIG);
	}
	synchronize_net();
	if (old->carrier != config->carrier)
		ctc_carrier_put(cn->net, old->carrier);
	ctc_config_inherit(config, old);
	ctc_table_free(old_table);
	ctc_config_free(old);
}

static bool ctc_config_needs_carrier(struct ctc_net *cn, const struct ctc_config *config)
{
	const struct ctc_config *old = ctc_config(cn);

	return !old || old->carrier != config->carrier || cn->state == CTCACHE_STATE_LOST;
}

/*
 * Makes @config the configuration, or fails and leaves everything as it was; takes @config over
 * in any case. Process context under ctc_mutex.
 */
int ctc_config_apply(struct ctc_net *cn, struct ctc_config *config, struct netlink_ext_ack *extack)
{
	bool needs_carrier = ctc_config_needs_carrier(cn, config);
	struct ctc_table *table;
	int err;

	config->generation = cn->generation + 1;
	if (config->carrier == CTCACHE_CARRIER_NONE) {
		ctc_config_free(config);
		ctc_net_stop(cn);
		cn->generation++;
		return 0;
	}
	table = ctc_table_alloc(config->decisions);
	err = table ? 0 : -ENOMEM;
	if (!err && needs_carrier)
		err = ctc_carrier_get(cn->net, config->carrier, extack);
	if (err)
		goto out_free;
	if (ctc_config(cn)) {
		ctc_config_swap(cn, config, table);
	} else {
		err = ctc_config_start(cn, config, table, extack);
		if (err)
			goto out_carrier;
	}
	cn->generation++;
	return 0;

out_carrier:
	ctc_carrier_put(cn->net, config->carrier);
out_free:
	ctc_table_free(table);
	ctc_config_free(config);
	return err;
}

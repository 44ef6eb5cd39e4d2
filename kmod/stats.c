// SPDX-License-Identifier: GPL-2.0
/*
 * Statistics: every CPU counts for itself, readers add up. The packet path never waits for a
 * reader; a sum is of one moment only as far as counters stand still. 64-bit counters are read
 * whole on the 64-bit machines that this module is built for.
 */
#include <linux/cpumask.h>

#include "ctc.h"

void ctc_zone_counters(const struct ctc_config *config, u32 slot, struct ctc_counters *sum)
{
	int cpu;

	*sum = config->zone[slot].before;
	for_each_possible_cpu(cpu) {
		const struct ctc_counters *c = &config->counters[cpu][slot];

		sum->hits += READ_ONCE(c->hits);
		sum->misses += READ_ONCE(c->misses);
		sum->learned += READ_ONCE(c->learned);
	}
}

/*
 * @stat and @miss have CTCACHE_STAT_MAX + 1 and CTCACHE_MISS_MAX + 1 members. Process context under
 * ctc_mutex, started.
 */
void ctc_totals(struct ctc_net *cn, u64 *stat, u64 *miss)
{
	const struct ctc_config *config = ctc_config(cn);
	struct ctc_counters sum;
	int cpu, i;
	u32 slot;

	for_each_possible_cpu(cpu) {
		const struct ctc_cpu *c = per_cpu_ptr(cn->cpu, cpu);

		for (i = 0; i <= CTCACHE_STAT_MAX; i++)
			stat[i] += READ_ONCE(c->stat[i]);
		for (i = 0; i <= CTCACHE_MISS_MAX; i++)
			miss[i] += READ_ONCE(c->miss[i]);
	}
	for (slot = 0; slot < config->nr_zones; slot++) {
		ctc_zone_counters(config, slot, &sum);
		stat[CTCACHE_STAT_HITS] += sum.hits;
		stat[CTCACHE_STAT_MISSES] += sum.misses;
		stat[CTCACHE_STAT_LEARNED] += sum.learned;
	}
	stat[CTCACHE_STAT_DECISIONS] = ctc_decisions(cn);
	stat[CTCACHE_STAT_CAPACITY] = config->decisions;
	stat[CTCACHE_STAT_SWEEPS] = READ_ONCE(cn->sweeps);
}

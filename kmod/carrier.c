// SPDX-License-Identifier: GPL-2.0
/*
 * Carriers: where a conntrack entry keeps the flow's eight bytes.
 *
 * Linux >= 5.18 has a fixed table of conntrack extensions, so the numbers borrow one:
 *  - act_ct: NF_CT_EXT_ACT_CT is two ints that nothing but tc's act_ct and Open vSwitch read or
 *    write. An entry gets it while it is unconfirmed; nf_ct_ext_add() allows no later moment.
 *  - labels: the upper 64 of the 128 label bits. Whoever holds a reference on labels makes
 *    conntrack add the extension to every new entry (nf_ct_labels_ext_add()). The act_ct carrier
 *    is ours only as long as those two are not loaded. That is checked when it is taken, and a
 *    module notifier hears of their arrival before their init runs: then every namespace on that
 *    carrier stops, and its entries are cleared, since act_ct would take our numbers for
 *    interfaces.
 */
#include <linux/module.h>
#include <linux/netlink.h>

#include "ctc.h"

/* A symbol that tells whether a rival is there; both export some since long before 6.1. */
static struct {
	const char *module;
	const char *symbol;
	bool coming; /* its init may be running: symbols of such a module cannot be had yet */
} ctc_rivals[] = {
	{ .module = "act_ct", .symbol = "tcf_ct_flow_table_restore_skb" },
	{ .module = "openvswitch", .symbol = "ovs_vport_ops_unregister" },
};

static bool ctc_rival_loaded(void)
{
	int i;

	lockdep_assert_held(&ctc_mutex);
	for (i = 0; i < ARRAY_SIZE(ctc_rivals); i++) {
		if (ctc_rivals[i].coming)
			return true;
		if (__symbol_get(ctc_rivals[i].symbol)) {
			__symbol_put(ctc_rivals[i].symbol);
			return true;
		}
	}
	return false;
}

/* Process context. Balanced by ctc_carrier_put(). */
int ctc_carrier_get(struct net *net, u8 carrier, struct netlink_ext_ack *extack)
{
	if (carrier == CTCACHE_CARRIER_LABELS) {
		if (!ctc_has_labels()) {
			NL_SET_ERR_MSG(extack, "this kernel has no connection labels");
			return -EOPNOTSUPP;
		}
		return nf_connlabels_get(net, 127);
	}
	if (!ctc_has_act_ct()) {
		NL_SET_ERR_MSG(extack, "this kernel has no act_ct extension, take carrier labels");
		return -EOPNOTSUPP;
	}
	if (ctc_rival_loaded()) {
		NL_SET_ERR_MSG(extack, "act_ct or openvswitch uses this carrier, take labels");
		return -EBUSY;
	}
	return 0;
}

void ctc_carrier_put(struct net *net, u8 carrier)
{
	if (carrier == CTCACHE_CARRIER_LABELS)
		nf_connlabels_put(net);
}

static void ctc_carrier_lost(const char *module)
{
	struct ctc_net *cn;

	list_for_each_entry(cn, &ctc_nets, list) {
		if (ctc_config(cn)->carrier != CTCACHE_CARRIER_ACT_CT)
			continue;
		ctc_epoch_stop(cn, CTCACHE_STATE_LOST);
		synchronize_net();
		ctc_sweep(cn, CTCACHE_CARRIER_ACT_CT, CTC_ALL_ZONES);
		pr_warn("%s takes carrier act_ct: nothing is cached until labels is set\n", module);
	}
}

/*
 * Process context, without RTNL; COMING is before the module's init, GOING also after an init that
 * failed.
 */
static int ctc_module_event(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct module *module = data;
	int i;

	if (event != MODULE_STATE_COMING && event != MODULE_STATE_GOING)
		return NOTIFY_DONE;
	for (i = 0; i < ARRAY_SIZE(ctc_rivals); i++) {
		if (strcmp(module->name, ctc_rivals[i].module))
			continue;
		mutex_lock(&ctc_mutex);
		ctc_rivals[i].coming = event == MODULE_STATE_COMING;
		if (ctc_rivals[i].coming)
			ctc_carrier_lost(module->name);
		mutex_unlock(&ctc_mutex);
	}
	return NOTIFY_DONE;
}

static struct notifier_block ctc_module_nb = {
	.notifier_call = ctc_module_event,
};

int ctc_carrier_init(void)
{
	return register_module_notifier(&ctc_module_nb);
}

void ctc_carrier_exit(void)
{
	unregister_module_notifier(&ctc_module_nb);
}

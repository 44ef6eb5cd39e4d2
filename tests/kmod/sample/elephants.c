// SPDX-License-Identifier: GPL-2.0
/*
 * A sample of what nf_ctcache's records are good for: finds the elephants among a router's flows.
 *
 * Every forwarded flow (to @port, if that is set) has a record that counts its packets and bytes.
 * A flow above @threshold bytes is an elephant: its conntrack mark becomes @mark, by which tc or
 * nftables may choose a queue for it. /proc/elephants tells the sums; writing "off" there forgets
 * all flows, "on" begins anew.
 *
 * So that tests see whose records these are, each also remembers its flow's tuples.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/netfilter_ipv4.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_tuple.h>

#include <nf_ctcache.h>

static ushort port;
module_param(port, ushort, 0644);
MODULE_PARM_DESC(port, "Destination port of the flows to be classified; 0: all");

static ulong threshold = 10 << 20;
module_param(threshold, ulong, 0644);
MODULE_PARM_DESC(threshold, "Bytes from which a flow is an elephant");

static uint mark = 0xe1e;
module_param(mark, uint, 0644);
MODULE_PARM_DESC(mark, "Conntrack mark of elephants");

enum { BEGAN, ENDED, CUT, PACKETS, BYTES, ELEPHANTS, WITHOUT, EARLY, STRANGERS, COUNTS };

static const char *const names[COUNTS] = {
	[BEGAN] = "began",
	[ENDED] = "ended",
	[CUT] = "cut",	       /* of these, the ones whose entry had not ended */
	[PACKETS] = "packets", /* of flows that have ended, as the next two */
	[BYTES] = "bytes",
	[ELEPHANTS] = "elephants",
	[WITHOUT] = "without",	   /* packets of flows that have no record */
	[EARLY] = "early",	   /* packets of flows that cannot have one yet */
	[STRANGERS] = "strangers", /* packets that were given the record of another flow */
};

static atomic64_t counts[COUNTS];

struct flow {
	atomic64_t packets;
	atomic64_t bytes;
	unsigned long elephant;
	struct nf_conntrack_tuple tuples[IP_CT_DIR_MAX];
};

static void flow_begin(void *data, const struct nf_conn *ct)
{
	struct flow *flow = data;
	int dir;

	for (dir = 0; dir < IP_CT_DIR_MAX; dir++)
		flow->tuples[dir] = ct->tuplehash[dir].tuple;
}

static bool flow_is_of(const struct flow *flow, const struct nf_conn *ct)
{
	return nf_ct_tuple_equal(&flow->tuples[0], &ct->tuplehash[0].tuple) &&
	       nf_ct_tuple_equal(&flow->tuples[1], &ct->tuplehash[1].tuple);
}

static void flow_end(void *data, const struct nf_conn *ct)
{
	struct flow *flow = data;

	atomic64_inc(&counts[ENDED]);
	if (!nf_ct_is_dying(ct))
		atomic64_inc(&counts[CUT]);
	atomic64_add(atomic64_read(&flow->packets), &counts[PACKETS]);
	atomic64_add(atomic64_read(&flow->bytes), &counts[BYTES]);
	if (flow->elephant)
		atomic64_inc(&counts[ELEPHANTS]);
	if (!flow_is_of(flow, ct))
		atomic64_inc(&counts[STRANGERS]);
}

static struct nf_ctcache_kind elephants = {
	.name = "elephants",
	.size = sizeof(struct flow),
	.init = flow_begin,
	.destroy = flow_end,
};

static void flow_packet(struct flow *flow, struct nf_conn *ct, const struct sk_buff *skb)
{
	/* Whoever counts the first packet has the only one that finds nothing counted before. */
	if (atomic64_inc_return(&flow->packets) == 1)
		atomic64_inc(&counts[BEGAN]);
	if (atomic64_add_return(skb->len, &flow->bytes) > READ_ONCE(threshold) &&
	    !test_and_set_bit(0, &flow->elephant))
		WRITE_ONCE(ct->mark, READ_ONCE(mark));
	if (!flow_is_of(flow, ct))
		atomic64_inc(&counts[STRANGERS]);
}

/* Under RCU, as every hook. */
static unsigned int elephants_hook(void *priv, struct sk_buff *skb,
				   const struct nf_hook_state *state)
{
	u16 wanted = READ_ONCE(port);
	enum ip_conntrack_info ctinfo;
	struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct flow *flow;

	if (!ct)
		return NF_ACCEPT;
	if (wanted && nf_ct_tuple(ct, IP_CT_DIR_ORIGINAL)->dst.u.all != htons(wanted))
		return NF_ACCEPT;
	flow = nf_ctcache_record_make(&elephants, ct);
	if (flow)
		flow_packet(flow, ct, skb);
	else
		atomic64_inc(&counts[nf_ct_is_confirmed(ct) ? WITHOUT : EARLY]);
	return NF_ACCEPT;
}

static const struct nf_hook_ops elephants_ops = {
	.hook = elephants_hook,
	.pf = NFPROTO_INET,
	.hooknum = NF_INET_FORWARD,
	.priority = NF_IP_PRI_LAST, /* only what the rules let through */
};

static int __net_init elephants_net_init(struct net *net)
{
	return nf_register_net_hook(net, &elephants_ops);
}

static void __net_exit elephants_net_exit(struct net *net)
{
	nf_unregister_net_hook(net, &elephants_ops);
}

static struct pernet_operations elephants_net_ops = {
	.init = elephants_net_init,
	.exit = elephants_net_exit,
};

static int elephants_show(struct seq_file *file, void *data)
{
	int i;

	for (i = 0; i < COUNTS; i++)
		seq_printf(file, "%s %lld\n", names[i], atomic64_read(&counts[i]));
	return 0;
}

static DEFINE_MUTEX(switch_mutex);
static bool on;

static int switch_to(bool wanted)
{
	int err = 0;

	mutex_lock(&switch_mutex);
	if (wanted && !on)
		err = nf_ctcache_register(&elephants);
	else if (!wanted && on)
		nf_ctcache_unregister(&elephants);
	if (!err)
		on = wanted;
	mutex_unlock(&switch_mutex);
	return err;
}

static int elephants_open(struct inode *inode, struct file *file)
{
	return single_open(file, elephants_show, NULL);
}

static ssize_t elephants_write(struct file *file, const char __user *text, size_t size,
			       loff_t *position)
{
	bool wanted;
	int err = kstrtobool_from_user(text, size, &wanted);

	return err ?: switch_to(wanted) ?: size;
}

static const struct proc_ops elephants_proc_ops = {
	.proc_open = elephants_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_write = elephants_write,
	.proc_release = single_release,
};

static int __init elephants_init(void)
{
	int err = switch_to(true);

	if (err)
		return err;
	err = -ENOMEM;
	if (!proc_create("elephants", 0644, NULL, &elephants_proc_ops))
		goto out_kind;
	err = register_pernet_subsys(&elephants_net_ops);
	if (err)
		goto out_proc;
	return 0;

out_proc:
	remove_proc_entry("elephants", NULL);
out_kind:
	switch_to(false);
	return err;
}

static void __exit elephants_exit(void)
{
	remove_proc_entry("elephants", NULL);
	unregister_pernet_subsys(&elephants_net_ops);
	switch_to(false);
	pr_info("%lld flows began, %lld ended\n", atomic64_read(&counts[BEGAN]),
		atomic64_read(&counts[ENDED]));
}

module_init(elephants_init);
module_exit(elephants_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Finds large flows, as a sample of the use of nf_ctcache");

// SPDX-License-Identifier: GPL-2.0
/*
 * Two more kinds of records with every forwarded flow, and what must not be registered.
 *
 * One is as small as can be and has no callbacks, one as large as can be. Loading fails if a
 * registration has another result than it should have. Unloading unregisters the kinds first, in
 * the midst of the hooks' work.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/netfilter_ipv4.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>

#include <nf_ctcache.h>

static atomic_t made[2], destroyed, wrong;

struct largest {
	u64 first;
	u8 rest[NF_CTCACHE_RECORD_MAX - sizeof(u64)];
};

static void largest_end(void *data, const struct nf_conn *ct)
{
	might_sleep();
	atomic_inc(&destroyed);
	if (((struct largest *)data)->first != (unsigned long)ct)
		atomic_inc(&wrong);
}

static struct nf_ctcache_kind smallest = { .name = "smallest", .size = 1 };
static struct nf_ctcache_kind largest = {
	.name = "largest",
	.size = sizeof(struct largest),
	.destroy = largest_end,
};

static struct {
	struct nf_ctcache_kind kind;
	int err;
} bad[] = {
	{ { .name = "largest", .size = 8 }, -EEXIST },
	{ { .name = "x", .size = NF_CTCACHE_RECORD_MAX + 1 }, -EINVAL },
	{ { .name = "x", .size = 0 }, -EINVAL },
	{ { .name = "", .size = 8 }, -EINVAL },
	{ { .size = 8 }, -EINVAL },
};

static unsigned int others_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	enum ip_conntrack_info ctinfo;
	struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct largest *large;
	u8 *small;

	if (!ct)
		return NF_ACCEPT;
	small = nf_ctcache_record_make(&smallest, ct);
	if (small && !xchg(small, 1))
		atomic_inc(&made[0]);
	large = nf_ctcache_record_make(&largest, ct);
	if (!large)
		return NF_ACCEPT;
	if (!IS_ALIGNED((unsigned long)large, sizeof(u64)) ||
	    memchr_inv(large->rest, 0, sizeof(large->rest)) ||
	    nf_ctcache_record_find(&largest, ct) != large)
		atomic_inc(&wrong);
	if (!xchg(&large->first, (unsigned long)ct))
		atomic_inc(&made[1]);
	return NF_ACCEPT;
}

static const struct nf_hook_ops others_ops = {
	.hook = others_hook,
	.pf = NFPROTO_INET,
	.hooknum = NF_INET_FORWARD,
	.priority = NF_IP_PRI_LAST,
};

static int __net_init others_net_init(struct net *net)
{
	return nf_register_net_hook(net, &others_ops);
}

static void __net_exit others_net_exit(struct net *net)
{
	nf_unregister_net_hook(net, &others_ops);
}

static struct pernet_operations others_net_ops = {
	.init = others_net_init,
	.exit = others_net_exit,
};

static int __init others_refused(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		int err = nf_ctcache_register(&bad[i].kind);

		if (err == bad[i].err)
			continue;
		pr_err("registration %d: %d instead of %d\n", i, err, bad[i].err);
		if (!err)
			nf_ctcache_unregister(&bad[i].kind);
		return -EPROTO;
	}
	return 0;
}

static int __init others_init(void)
{
	int err = nf_ctcache_register(&smallest);

	if (err)
		return err;
	err = nf_ctcache_register(&largest);
	if (err)
		goto out_smallest;
	err = others_refused();
	if (!err)
		err = register_pernet_subsys(&others_net_ops);
	if (err)
		goto out_largest;
	return 0;

out_largest:
	nf_ctcache_unregister(&largest);
out_smallest:
	nf_ctcache_unregister(&smallest);
	return err;
}

static void __exit others_exit(void)
{
	nf_ctcache_unregister(&largest);
	nf_ctcache_unregister(&smallest);
	unregister_pernet_subsys(&others_net_ops);
	pr_info("made %d %d, destroyed %d, wrong %d\n", atomic_read(&made[0]),
		atomic_read(&made[1]), atomic_read(&destroyed), atomic_read(&wrong));
}

module_init(others_init);
module_exit(others_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Uses nf_ctcache's records at their limits, for tests");

// SPDX-License-Identifier: GPL-2.0
/*
 * Weighs what the conntrack entries of a network namespace carry besides themselves.
 *
 * /dev/weigh, for root: a read() walks the table and returns "entries extensions length allocated":
 * how many entries there are, how many of them have an extension area, the bytes used in all of
 * those, and the bytes that the allocator gave for them.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_core.h>
#include <net/netfilter/nf_conntrack_extend.h>

struct weight {
	unsigned long entries, extensions, length, allocated;
};

/* Under nf_conntrack's bucket lock; never asks for the entry's death. */
static int weigh_one(struct nf_conn *ct, void *data)
{
	struct weight *weight = data;

	weight->entries++;
	if (ct->ext) {
		weight->extensions++;
		weight->length += ct->ext->len;
		weight->allocated += ksize(ct->ext);
	}
	return 0;
}

static ssize_t weigh_read(struct file *file, char __user *data, size_t size, loff_t *offset)
{
	struct weight weight = {};
	struct nf_ct_iter_data iterate = { .net = current->nsproxy->net_ns, .data = &weight };
	char text[96];
	int length;

	if (*offset)
		return 0;
	nf_ct_iterate_cleanup_net(weigh_one, &iterate);
	length = scnprintf(text, sizeof(text), "%lu %lu %lu %lu\n", weight.entries,
			   weight.extensions, weight.length, weight.allocated);
	return simple_read_from_buffer(data, size, offset, text, length);
}

static const struct file_operations weigh_operations = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.read = weigh_read,
};

static struct miscdevice weigh_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "weigh",
	.fops = &weigh_operations,
	.mode = 0600,
};

module_misc_device(weigh_device);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Weighs conntrack entries, for benchmarks");

// SPDX-License-Identifier: GPL-2.0
/*
 * Packet injector for benchmarks.
 *
 * Feeds fresh packets to a device's receive path and measures only that: packets are allocated and filled in batches
 * with the clock stopped, then each batch goes through netif_receive_skb() with it running. (pktgen's packets are
 * shared, so the IP path would clone and copy each; a veth or AF_PACKET would be measured along.)
 *
 * /dev/inject, for root: one write() is one run, of struct inject_run, then `frames` frames of `frame_length` bytes, which
 * are sent in turn. The device is looked up in the network namespace of the writer. read() then returns the
 * struct inject_result of this descriptor's last run.
 *
 * The clock is the time stamp counter. On a real machine these are cycles; under qemu's -icount shift=0 it counts
 * guest instructions, and a run repeats to a thousandth.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/etherdevice.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/sched/signal.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/timex.h>
#include <linux/uaccess.h>

#include "inject.h"

struct inject_file {
	struct inject_result result;
};

static struct sk_buff *inject_skb(struct net_device *dev, const void *frame, unsigned int length)
{
	struct sk_buff *skb = netdev_alloc_skb_ip_align(dev, length);

	if (!skb)
		return NULL;
	skb_put_data(skb, frame, length);
	skb->protocol = eth_type_trans(skb, dev);
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	return skb;
}

/* Allocates up to INJECT_BATCH packets, then receives them; returns how many, and adds to *cycles. */
static unsigned int inject_batch(struct net_device *dev, const struct inject_run *run, const u8 *frames, u64 sent,
				 u64 *cycles)
{
	struct sk_buff *batch[INJECT_BATCH];
	unsigned int count = min_t(u64, INJECT_BATCH, run->packets - sent);
	unsigned int i;
	cycles_t begin;

	for (i = 0; i < count; i++) {
		u32 frame = (u32)((sent + i) % run->frames);

		batch[i] = inject_skb(dev, frames + (size_t)frame * run->frame_length, run->frame_length);
		if (!batch[i])
			break;
	}
	count = i;

	local_bh_disable();
	begin = get_cycles();
	for (i = 0; i < count; i++)
		netif_receive_skb(batch[i]);
	*cycles += get_cycles() - begin;
	local_bh_enable();
	return count;
}

static int inject_packets(struct net_device *dev, const struct inject_run *run, const u8 *frames,
			  struct inject_result *result)
{
	u64 sent = 0, cycles = 0;

	while (sent < run->packets) {
		unsigned int count = inject_batch(dev, run, frames, sent, &cycles);

		if (!count)
			return -ENOMEM;
		if (signal_pending(current))
			return -EINTR;
		sent += count;
		cond_resched();
	}
	result->packets = sent;
	result->cycles = cycles;
	return 0;
}

static ssize_t inject_write(struct file *file, const char __user *data, size_t size, loff_t *offset)
{
	struct inject_file *state = file->private_data;
	struct net_device *dev;
	struct inject_run run;
	u8 *frames;
	int err;

	if (size < sizeof(run))
		return -EINVAL;
	if (copy_from_user(&run, data, sizeof(run)))
		return -EFAULT;
	if (!run.frames || run.frame_length < ETH_HLEN || run.frame_length > ETH_FRAME_LEN ||
	    size - sizeof(run) != (u64)run.frames * run.frame_length)
		return -EINVAL;

	frames = kvmalloc(size - sizeof(run), GFP_KERNEL);
	if (!frames)
		return -ENOMEM;
	if (copy_from_user(frames, data + sizeof(run), size - sizeof(run))) {
		err = -EFAULT;
		goto out_free;
	}
	dev = dev_get_by_index(current->nsproxy->net_ns, run.ifindex);
	if (!dev) {
		err = -ENODEV;
		goto out_free;
	}
	err = inject_packets(dev, &run, frames, &state->result);
	dev_put(dev);
out_free:
	kvfree(frames);
	return err ?: (ssize_t)size;
}

static ssize_t inject_read(struct file *file, char __user *data, size_t size, loff_t *offset)
{
	struct inject_file *state = file->private_data;

	if (size < sizeof(state->result))
		return -EINVAL;
	if (copy_to_user(data, &state->result, sizeof(state->result)))
		return -EFAULT;
	return sizeof(state->result);
}

static int inject_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct inject_file), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int inject_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations inject_operations = {
	.owner = THIS_MODULE,
	.open = inject_open,
	.release = inject_release,
	.read = inject_read,
	.write = inject_write,
	.llseek = noop_llseek,
};

static struct miscdevice inject_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "inject",
	.fops = &inject_operations,
	.mode = 0600,
};

module_misc_device(inject_device);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Packet injector for benchmarks");

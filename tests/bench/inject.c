// SPDX-License-Identifier: GPL-2.0
/*
 * Packet injector for benchmarks.
 *
 * Feeds fresh packets to a device's receive path and measures only that: packets are allocated and
 * filled in batches with the clock stopped, then each batch goes through netif_receive_skb() (or
 * its list form) with it running. (pktgen's packets are shared, so the IP path would clone and copy
 * each; a veth or AF_PACKET would be measured along.)
 *
 * /dev/inject, for root: one write() is one run, of struct inject_run, then `frames` frames of
 * `frame_length` bytes, which are sent in turn; the descriptor keeps them for runs without. The
 * devices are looked up in the network namespace of the writer. read() then returns this
 * descriptor's last struct inject_result and the cycles of each batch, by which a reader can tell
 * an interrupted batch from the others.
 *
 * The clock is the time stamp counter. Under qemu's -icount shift=0 it counts guest instructions,
 * and a run repeats to a thousandth; in User-Mode Linux it is the host's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
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
	u32 *cycles; /* by batch */
	u8 *frames;
	u32 nr_frames;
	u32 frame_length;
};

static u32 inject_kilohertz;

#ifdef CONFIG_UML
/* User-Mode Linux has no cycle counter of its own. */
static u64 inject_clock(void)
{
	u32 low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}
#else
static u64 inject_clock(void)
{
	return get_cycles();
}
#endif

static void inject_calibrate(void)
{
	u64 time = ktime_get_ns(), cycles = inject_clock();

	mdelay(20);
	time = ktime_get_ns() - time;
	inject_kilohertz = div64_u64((inject_clock() - cycles) * USEC_PER_SEC, time);
}

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

static u64 inject_each(struct sk_buff **batch, unsigned int count)
{
	u64 begin = inject_clock();
	unsigned int i;

	for (i = 0; i < count; i++)
		netif_receive_skb(batch[i]);
	return inject_clock() - begin;
}

/* The lists are made with the clock stopped, as NAPI makes them for GRO. */
static u64 inject_lists(struct sk_buff **batch, unsigned int count, unsigned int length)
{
	struct list_head list[INJECT_BATCH];
	unsigned int i, lists = DIV_ROUND_UP(count, length);
	u64 begin;

	for (i = 0; i < lists; i++)
		INIT_LIST_HEAD(&list[i]);
	for (i = 0; i < count; i++)
		list_add_tail(&batch[i]->list, &list[i / length]);
	begin = inject_clock();
	for (i = 0; i < lists; i++)
		netif_receive_skb_list(&list[i]);
	return inject_clock() - begin;
}

/* Allocates up to INJECT_BATCH packets, then receives them; returns how many. */
static unsigned int inject_batch(struct inject_file *file, const struct inject_run *run,
				 struct net_device *dev, u64 sent, u32 *cycles)
{
	struct sk_buff *batch[INJECT_BATCH];
	unsigned int count = min_t(u64, INJECT_BATCH, run->packets - sent);
	unsigned int i;
	u64 begin;

	for (i = 0; i < count; i++) {
		size_t frame = (u32)((sent + i) % file->nr_frames);

		batch[i] = inject_skb(dev, file->frames + frame * file->frame_length,
				      file->frame_length);
		if (!batch[i])
			break;
	}
	count = i;

	local_bh_disable();
	begin = inject_clock();
	if (run->list)
		*cycles = inject_lists(batch, count, run->list);
	else
		*cycles = inject_each(batch, count);
	local_bh_enable();
	if (run->deferred)
		*cycles = inject_clock() - begin;
	return count;
}

static int inject_packets(struct inject_file *file, const struct inject_run *run,
			  struct net_device **dev)
{
	struct inject_result *result = &file->result;
	u64 sent = 0;

	while (sent < run->packets) {
		u32 *cycles = &file->cycles[result->batches];
		bool second = run->period && result->batches % run->period == 1;
		unsigned int count = inject_batch(file, run, dev[second], sent, cycles);

		if (!count)
			return -ENOMEM;
		if (signal_pending(current))
			return -EINTR;
		sent += count;
		result->cycles += *cycles;
		result->batches++;
		cond_resched();
	}
	result->packets = sent;
	return 0;
}

static int inject_on_devices(struct inject_file *file, const struct inject_run *run)
{
	struct net_device *dev[2];
	int err = -ENODEV;

	dev[0] = dev_get_by_index(current->nsproxy->net_ns, run->ifindex[0]);
	dev[1] = dev_get_by_index(current->nsproxy->net_ns, run->ifindex[1]);
	if (dev[0] && (dev[1] || !run->period))
		err = inject_packets(file, run, dev);
	dev_put(dev[0]);
	dev_put(dev[1]);
	return err;
}

/* Takes the frames that come with a run. */
static int inject_load(struct inject_file *file, const struct inject_run *run,
		       const char __user *data, size_t size)
{
	if (!run->frames)
		return file->frames && !size ? 0 : -EINVAL;
	if (run->frame_length < ETH_HLEN || run->frame_length > ETH_FRAME_LEN ||
	    size != (u64)run->frames * run->frame_length)
		return -EINVAL;
	kvfree(file->frames);
	file->frames = kvmalloc(size, GFP_KERNEL);
	if (!file->frames)
		return -ENOMEM;
	file->nr_frames = run->frames;
	file->frame_length = run->frame_length;
	if (!copy_from_user(file->frames, data, size))
		return 0;
	kvfree(file->frames);
	file->frames = NULL;
	return -EFAULT;
}

static ssize_t inject_write(struct file *file, const char __user *data, size_t size, loff_t *offset)
{
	struct inject_file *state = file->private_data;
	struct inject_run run;
	int err;

	if (size < sizeof(run))
		return -EINVAL;
	if (copy_from_user(&run, data, sizeof(run)))
		return -EFAULT;
	if (run.period == 1 || run.packets > U32_MAX)
		return -EINVAL;
	err = inject_load(state, &run, data + sizeof(run), size - sizeof(run));
	if (err)
		return err;

	kvfree(state->cycles);
	state->result = (struct inject_result){ .kilohertz = inject_kilohertz };
	state->cycles = kvcalloc(DIV_ROUND_UP(run.packets, INJECT_BATCH), sizeof(u32), GFP_KERNEL);
	if (!state->cycles)
		return -ENOMEM;
	return inject_on_devices(state, &run) ?: (ssize_t)size;
}

static ssize_t inject_read(struct file *file, char __user *data, size_t size, loff_t *offset)
{
	const struct inject_file *state = file->private_data;
	const size_t header = sizeof(state->result);
	size_t batches = state->result.batches * sizeof(u32);

	if (size < header)
		return -EINVAL;
	batches = min(batches, size - header);
	if (copy_to_user(data, &state->result, header) ||
	    copy_to_user(data + header, state->cycles, batches))
		return -EFAULT;
	return header + batches;
}

static int inject_open(struct inode *inode, struct file *file)
{
	struct inject_file *run = kzalloc(sizeof(*run), GFP_KERNEL);

	file->private_data = run;
	return run ? 0 : -ENOMEM;
}

static int inject_release(struct inode *inode, struct file *file)
{
	struct inject_file *state = file->private_data;

	kvfree(state->frames);
	kvfree(state->cycles);
	kfree(state);
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

static int __init inject_init(void)
{
	inject_calibrate();
	return misc_register(&inject_device);
}

static void __exit inject_exit(void)
{
	misc_deregister(&inject_device);
}

module_init(inject_init);
module_exit(inject_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Packet injector for benchmarks");

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef INJECT_H
#define INJECT_H

#include <linux/types.h>

#define INJECT_BATCH 64

/*
 * What to send; `frames` frames of `frame_length` bytes follow and are sent in turn. Without any,
 * those of the descriptor's last run are sent again. Host byte order.
 */
struct inject_run {
	__u32 ifindex[2];
	__u32 frames;
	__u32 frame_length;
	__u32 list;	/* packets of one netif_receive_skb_list(); 0: netif_receive_skb() each */
	__u32 period;	/* of so many batches, the second goes to ifindex[1]; 0: none does */
	__u32 deferred;	/* the clock includes the softirqs, by which packets come again */
	__u32 unused;
	__u64 packets;
};

/* `batches` times a __u32 follow: the cycles of each batch. */
struct inject_result {
	__u64 packets;
	__u64 cycles;
	__u32 kilohertz;	/* of the clock */
	__u32 batches;
};

#endif

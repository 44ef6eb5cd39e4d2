/* SPDX-License-Identifier: GPL-2.0 */
#ifndef INJECT_H
#define INJECT_H

#include <linux/types.h>

#define INJECT_BATCH 64

/* What to send; `frames` frames of `frame_length` bytes follow. Host byte order. */
struct inject_run {
	__u32 ifindex;
	__u32 frames;
	__u32 frame_length;
	__u32 padding;
	__u64 packets;
};

struct inject_result {
	__u64 packets;
	__u64 cycles;
};

#endif

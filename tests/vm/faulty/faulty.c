// SPDX-License-Identifier: GPL-2.0
/*
 * What the test machines must notice: `insmod faulty.ko fault=NAME` does one thing that a kernel
 * module must not do, while it is loaded. For tests/vm/selftest.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

static char *fault = "none";
module_param(fault, charp, 0400);

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

static void leak(void)
{
	void *lost = kmalloc(1000, GFP_KERNEL);

	pr_info("faulty: lost %p\n", lost);
}

static void use_after_free(void)
{
	char *gone = kmalloc(100, GFP_KERNEL);

	if (!gone)
		return;
	kfree(gone);
	OPTIMIZER_HIDE_VAR(gone);
	WRITE_ONCE(gone[50], 1);
}

static void lock_both(struct mutex *outer, struct mutex *inner)
{
	mutex_lock(outer);
	mutex_lock(inner);
	mutex_unlock(inner);
	mutex_unlock(outer);
}

static int __init faulty_init(void)
{
	if (!strcmp(fault, "warn")) {
		WARN_ON(1);
	} else if (!strcmp(fault, "leak")) {
		leak();
	} else if (!strcmp(fault, "uaf")) {
		use_after_free();
	} else if (!strcmp(fault, "lock")) {
		lock_both(&first, &second);
		lock_both(&second, &first);
	} else if (strcmp(fault, "none")) {
		return -EINVAL;
	}
	return 0;
}

static void __exit faulty_exit(void)
{
}

module_init(faulty_init);
module_exit(faulty_exit);
MODULE_DESCRIPTION("Faults that the test machines must notice");
MODULE_LICENSE("GPL");

// SPDX-License-Identifier: GPL-2.0
/*
 * A module of another time: the family has nf_ctcache's name, and speaks a later version.
 */
#include <linux/module.h>
#include <net/genetlink.h>

static struct genl_family family = {
	.name = "nf_ctcache",
	.version = 2,
	.netnsok = true,
	.module = THIS_MODULE,
};

static int __init impostor_init(void)
{
	return genl_register_family(&family);
}

static void __exit impostor_exit(void)
{
	genl_unregister_family(&family);
}

module_init(impostor_init);
module_exit(impostor_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Pretends to be a later nf_ctcache");

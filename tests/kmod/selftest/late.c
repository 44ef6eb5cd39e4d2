// SPDX-License-Identifier: GPL-2.0
/*
 * Makes changes of routes and rules late: between the moment when nf_ctcache hears of one and the
 * moment when lookups see it.
 *
 * The kernel tells its notifiers before it publishes a change. This one has the priority of
 * nf_ctcache's and is registered after it, so it is called next, and spins while `held`, at most
 * LIMIT_MS: some of these events come with bottom halves off. Loaded from inside the network
 * namespace in question.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <net/fib_notifier.h>
#include <net/net_namespace.h>

#define LIMIT_MS	10000 /* below what calls a processor stuck, 20 s */

static bool held;
module_param(held, bool, 0600);

static unsigned int calls;
module_param(calls, uint, 0400);

static struct net *net;
static bool ready;

static int late_event(struct notifier_block *nb, unsigned long event, void *data)
{
	unsigned long until = jiffies + msecs_to_jiffies(LIMIT_MS);

	/* Registering replays what is there. */
	if (!ready)
		return NOTIFY_DONE;
	WRITE_ONCE(calls, calls + 1);
	while (READ_ONCE(held) && time_before(jiffies, until))
		mdelay(1);
	return NOTIFY_DONE;
}

static struct notifier_block late_nb = { .notifier_call = late_event, .priority = INT_MIN };

static int __init late_init(void)
{
	int err;

	net = get_net(current->nsproxy->net_ns);
	err = register_fib_notifier(net, &late_nb, NULL, NULL);
	if (err)
		put_net(net);
	ready = !err;
	return err;
}

static void __exit late_exit(void)
{
	unregister_fib_notifier(net, &late_nb);
	put_net(net);
}

module_init(late_init);
module_exit(late_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Delays the publication of routes and rules, for tests");

// SPDX-License-Identifier: GPL-2.0
/*
 * The floor: what a cache of lookups would cost if it looked at nothing.
 *
 * FORWARD keeps the dst that the stack found for the first packet of a family, PRE_ROUTING, last of
 * all, gives it to every packet of that family and device that follows, without a question. So it
 * forwards rightly only where every packet goes the same way: in a benchmark. The dst is marked as
 * one for which nobody asks IPsec's policies; it may be the bundle that they led to.
 *
 * LOCAL_IN (IPv4) does the same for what is delivered here, and keeps the socket that receives it,
 * by the packet's source port: in a benchmark no two flows share one.
 *
 * /dev/floor, for root: the first write() begins it in the network namespace of the writer, the
 * second one, when the dsts are known, ends the hooks that learn; closing the descriptor ends all
 * and gives the dsts and sockets back.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/nsproxy.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <net/dst.h>
#include <net/ip.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/sock.h>
#include <net/udp.h>
#include <net/xfrm.h>

#define FLOOR_HOOKS 5
#define FLOOR_LEARN 3 /* the last ones, which only learn */
#define FLOOR_PORTS 65536

struct floor_preset {
	struct dst_entry *dst;
	int ifindex;
	u16 flags;	       /* IPSKB_NOPOLICY, if there are policies */
	struct sock **sockets; /* if packets are delivered here */
};

struct floor {
	struct floor_preset preset[2]; /* IPv4, IPv6 */
	struct sock **sockets;	       /* by source port; NULL: no flow's */
	struct net *net;
	bool learning;
	struct nf_hook_ops hooks[FLOOR_HOOKS];
};

static __be16 floor_source_port(const struct sk_buff *skb)
{
	return *(const __be16 *)(skb->data + ip_hdrlen(skb));
}

/* As early demux gives it: with a reference, but for a socket that is freed by RCU. */
static void floor_give_socket(struct sk_buff *skb, struct sock *sk)
{
	if (!sk)
		return;
	skb->sk = sk;
	skb->destructor = sock_pfree;
	if (sk_is_refcounted(sk)) {
		sock_hold(sk);
		skb->destructor = sock_edemux;
	}
}

static unsigned int floor_pre_routing(void *priv, struct sk_buff *skb,
				      const struct nf_hook_state *state)
{
	const struct floor_preset *preset = priv;

	if (preset->ifindex == skb->dev->ifindex) {
		skb_dst_set_noref(skb, preset->dst);
		if (unlikely(preset->flags))
			IPCB(skb)->flags |= preset->flags;
		if (preset->sockets)
			floor_give_socket(skb, preset->sockets[ntohs(floor_source_port(skb))]);
	}
	return NF_ACCEPT;
}

static void floor_keep(struct floor_preset *preset, struct dst_entry *dst, const struct net *net,
		       u8 family)
{
	if (dst->xfrm)
		dst->input = ((struct xfrm_dst *)dst)->route->input;
	dst->flags |= DST_NOXFRM | DST_NOPOLICY;
	if (family == NFPROTO_IPV4 && net->xfrm.policy_count[XFRM_POLICY_OUT])
		preset->flags = IPSKB_NOPOLICY;
	preset->dst = dst;
}

/* Only of established flows: it begins when a cache would. */
static unsigned int floor_forward(void *priv, struct sk_buff *skb,
				  const struct nf_hook_state *state)
{
	struct floor_preset *preset = priv;
	enum ip_conntrack_info ctinfo;

	if (preset->dst)
		return NF_ACCEPT;
	if (nf_ct_get(skb, &ctinfo) && ctinfo == IP_CT_ESTABLISHED && dst_hold_safe(skb_dst(skb))) {
		floor_keep(preset, skb_dst(skb), state->net, state->pf);
		smp_store_release(&preset->ifindex, state->in->ifindex); /* the dst comes first */
	}
	return NF_ACCEPT;
}

/* The packet's by early demux, or the one it comes to without; with a reference of our own. */
static struct sock *floor_find_socket(const struct sk_buff *skb, struct net *net)
{
	const struct udphdr *udp = (const struct udphdr *)(skb->data + ip_hdrlen(skb));

	if (skb->sk) {
		sock_hold(skb->sk);
		return skb->sk;
	}
	if (ip_hdr(skb)->protocol != IPPROTO_UDP)
		return NULL;
	return udp4_lib_lookup(net, ip_hdr(skb)->saddr, udp->source, ip_hdr(skb)->daddr, udp->dest,
			       skb->dev->ifindex);
}

static unsigned int floor_local_in(void *priv, struct sk_buff *skb,
				   const struct nf_hook_state *state)
{
	struct floor *f = container_of(priv, struct floor, preset[0]);
	enum ip_conntrack_info ctinfo;
	struct sock **at = &f->sockets[ntohs(floor_source_port(skb))];

	if (!nf_ct_get(skb, &ctinfo) || ctinfo != IP_CT_ESTABLISHED)
		return NF_ACCEPT;
	if (!*at)
		*at = floor_find_socket(skb, state->net);
	f->preset[0].sockets = f->sockets;
	return floor_forward(priv, skb, state);
}

#define FLOOR_HOOK(family, at, function)                                                           \
	{                                                                                          \
		.hook = function, .pf = NFPROTO_##family, .hooknum = NF_INET_##at,                 \
		.priority = INT_MAX,                                                               \
	}

static const struct nf_hook_ops floor_hooks[FLOOR_HOOKS] = {
	FLOOR_HOOK(IPV4, PRE_ROUTING, floor_pre_routing),
	FLOOR_HOOK(IPV6, PRE_ROUTING, floor_pre_routing),
	FLOOR_HOOK(IPV4, FORWARD, floor_forward),
	FLOOR_HOOK(IPV6, FORWARD, floor_forward),
	FLOOR_HOOK(IPV4, LOCAL_IN, floor_local_in),
};

static void floor_learned(struct floor *f)
{
	if (f->learning)
		nf_unregister_net_hooks(f->net, f->hooks + FLOOR_HOOKS - FLOOR_LEARN, FLOOR_LEARN);
	f->learning = false;
}

static void floor_free(struct floor *f)
{
	int port;

	for (port = 0; f->sockets && port < FLOOR_PORTS; port++)
		if (f->sockets[port])
			sock_put(f->sockets[port]);
	kvfree(f->sockets);
	dst_release(f->preset[0].dst);
	dst_release(f->preset[1].dst);
	put_net(f->net);
	kfree(f);
}

static int floor_begin(struct file *file)
{
	struct floor *f = kzalloc(sizeof(*f), GFP_KERNEL);
	int i, err;

	if (!f)
		return -ENOMEM;
	f->net = get_net(current->nsproxy->net_ns);
	for (i = 0; i < FLOOR_HOOKS; i++) {
		f->hooks[i] = floor_hooks[i];
		f->hooks[i].priv = &f->preset[floor_hooks[i].pf == NFPROTO_IPV6];
	}
	f->sockets = kvcalloc(FLOOR_PORTS, sizeof(*f->sockets), GFP_KERNEL);
	err = f->sockets ? nf_register_net_hooks(f->net, f->hooks, FLOOR_HOOKS) : -ENOMEM;
	if (err) {
		floor_free(f);
		return err;
	}
	f->learning = true;
	file->private_data = f;
	return 0;
}

static ssize_t floor_write(struct file *file, const char __user *data, size_t size, loff_t *offset)
{
	int err = 0;

	if (file->private_data)
		floor_learned(file->private_data);
	else
		err = floor_begin(file);
	return err ?: (ssize_t)size;
}

static int floor_release(struct inode *inode, struct file *file)
{
	struct floor *f = file->private_data;

	if (!f)
		return 0;
	floor_learned(f);
	nf_unregister_net_hooks(f->net, f->hooks, FLOOR_HOOKS - FLOOR_LEARN);
	synchronize_net(); /* packets that borrow the dsts and sockets */
	floor_free(f);
	return 0;
}

static int floor_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL; /* misc_open() left the device there */
	return 0;
}

static const struct file_operations floor_operations = {
	.owner = THIS_MODULE,
	.open = floor_open,
	.release = floor_release,
	.write = floor_write,
	.llseek = noop_llseek,
};

static struct miscdevice floor_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "floor",
	.fops = &floor_operations,
	.mode = 0600,
};

module_misc_device(floor_device);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The floor under any cache of lookups, for benchmarks");

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* wire: counts every packet that passes a link.
 *
 * Runs as the filter of an AF_PACKET socket bound to the link. It always answers 0, "keep nothing of it", so the
 * socket's queue stays empty and cannot overflow: what is counted is exactly what passed, at any rate.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_FRAGMENT_OFFSET 0x1fff
#define MAX_EXTENSIONS 6

/* The numbers are those of Direction and Family in flow.go. */
enum { DIR_IN = 1, DIR_OUT = 2 };
enum { FAMILY_4 = 4, FAMILY_6 = 6, FAMILY_OTHER = 255 };

struct flow_key {
	__u8 direction; /* as the link sees it: DIR_OUT is sent by the link's own namespace */
	__u8 family;
	__u8 proto; /* of the transport, after any IPv6 extension headers */
	__u8 pad; /* explicit: always 0 */
	__u16 src_port; /* host order; the type of an ICMP message */
	__u16 dst_port; /* host order; the code of an ICMP message */
	__u8 src[16]; /* IPv4 addresses take the first four bytes */
	__u8 dst[16];
};
_Static_assert(sizeof(struct flow_key) == 40, "ABI");

struct flow_count {
	__u64 packets; /* segments on the wire: a large packet counts as what it will be cut into */
	__u64 bytes; /* from the IP header on */
};
_Static_assert(sizeof(struct flow_count) == 16, "ABI");

/* flows: how many packets of each flow have passed.
 *
 * Writer: the count program adds; user space only empties it, on Wire.Reset.
 * Reader: Wire.Flows.
 * Full:   packets of a new flow are not counted but for uncounted, and every read fails from then on.
 * Lives:  as long as the wire. Preallocated, so that a burst of new flows cannot run it out of memory.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow_count);
	__uint(max_entries, 65536);
} flows SEC(".maps");

/* uncounted: how many packets did not fit into flows.
 *
 * Writer: the count program. Reader: Wire.Flows. Lives as long as the wire.
 */
__u64 uncounted;

static __always_inline long load(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

/* read_ports fills in the ports, or ICMP's type and code. A packet that ends before them keeps zeros. */
static __always_inline void read_ports(struct __sk_buff *skb, __u32 offset, struct flow_key *key)
{
	__be16 ports[2];
	__u8 icmp[2];

	switch (key->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (load(skb, offset, ports, sizeof(ports)))
			return;
		key->src_port = bpf_ntohs(ports[0]);
		key->dst_port = bpf_ntohs(ports[1]);
		return;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (load(skb, offset, icmp, sizeof(icmp)))
			return;
		key->src_port = icmp[0];
		key->dst_port = icmp[1];
		return;
	}
}

static __always_inline void read_ip4(struct __sk_buff *skb, struct flow_key *key)
{
	struct iphdr ip;

	if (load(skb, 0, &ip, sizeof(ip)))
		return;
	key->family = FAMILY_4;
	key->proto = ip.protocol;
	__builtin_memcpy(key->src, &ip.saddr, 4);
	__builtin_memcpy(key->dst, &ip.daddr, 4);
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
		return; /* not the first fragment: no ports here */
	read_ports(skb, ip.ihl * 4, key);
}

static __always_inline void read_ip6(struct __sk_buff *skb, struct flow_key *key)
{
	struct ipv6hdr ip;
	struct {
		__u8 next;
		__u8 len;
		__be16 fragment;
	} ext;
	__u32 offset = sizeof(ip);

	if (load(skb, 0, &ip, sizeof(ip)))
		return;
	key->family = FAMILY_6;
	key->proto = ip.nexthdr;
	__builtin_memcpy(key->src, &ip.saddr, 16);
	__builtin_memcpy(key->dst, &ip.daddr, 16);
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		switch (key->proto) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			if (load(skb, offset, &ext, sizeof(ext)))
				return;
			offset += (ext.len + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (load(skb, offset, &ext, sizeof(ext)))
				return;
			key->proto = ext.next;
			if (ext.fragment & bpf_htons(0xfff8))
				return; /* not the first fragment: no ports here */
			offset += 8;
			continue;
		default:
			read_ports(skb, offset, key);
			return;
		}
		key->proto = ext.next;
	}
}

static __always_inline struct flow_count *flow_of(const struct flow_key *key)
{
	static const struct flow_count none;
	struct flow_count *count = bpf_map_lookup_elem(&flows, key);

	if (count)
		return count;
	/* Another CPU may be first, which is as good. */
	bpf_map_update_elem(&flows, key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&flows, key);
}

SEC("socket")
int count(struct __sk_buff *skb)
{
	struct flow_key key = {};
	struct flow_count *flow;
	__u32 segments = skb->gso_segs;

	key.direction = skb->pkt_type == PACKET_OUTGOING ? DIR_OUT : DIR_IN;
	key.family = FAMILY_OTHER;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		read_ip4(skb, &key);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		read_ip6(skb, &key);

	flow = flow_of(&key);
	if (!flow) {
		__sync_fetch_and_add(&uncounted, 1);
		return 0;
	}
	__sync_fetch_and_add(&flow->packets, segments ? segments : 1);
	__sync_fetch_and_add(&flow->bytes, skb->len);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

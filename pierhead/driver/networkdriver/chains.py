"""The rules of the one nft table of an instance: address translation, isolation, published ports.

They never change; networks and ports are elements of the table's sets and maps.  A packet to a published port finds
its target by one hash lookup, however many ports there are.  Chains, in the order of a packet's way:

- ``raw``: nobody but the host itself reaches 127.0.0.0/8 (``route_localnet`` is set on our bridges, and without this
  rule a container would reach every service on the host's loopback).
- ``guard``: nobody reaches a container's address past its bridge unless its network is routed or unprotected, or trusts
  the interface, or is not masqueraded (then answers come to it, and ``forward`` keeps the rest away); containers of
  internal networks reach nothing else. It and ``forward`` let pass what belongs to a connection before they look into
  any set: each packet of a bulk transfer met a dozen of look-ups otherwise, and was slower than with Docker's rules. A
  connection that a rule would refuse has not come to be one.
- ``prerouting``, ``output``: published ports.  An address of the host, a port in a map → the container.  Under the
  policies ``firewall`` and ``local`` only for the host and containers: what comes from outside meets the host's own
  input rules, and then a socket that the container's shim holds.  ``apart``: where bridged frames pass these chains,
  what is translated to its own bridge is bridged, and so stopped by the isolation of the ports of a bridge that keeps
  its containers apart.  Its own containers are not translated then: they come to the shim's socket.
- ``input``, under ``local``: what those sockets serve is not for clients from outside.
- ``forward``: between bridges only what was published; nothing into or out of internal networks; of a bridge that
  keeps its containers apart only what was published or linked.
- ``strangers4``, ``strangers6``: what neither enters nor leaves a bridge of a Pierhead is not forwarded; only where
  the host did not forward before an engine turned that on, and not for bridges of other engines whose own rules let
  them forward (``guests``).  Frames that a bridge of others passes on by itself are none of our business (``alike``).
- ``postrouting``: masquerade what leaves, what comes back to its own bridge (hairpin), and the host's own clients.

It is an ``inet`` table: one set of rules for both families.  Nothing but ``apart`` depends on br_netfilter; where
bridged frames pass these chains too, a pair of equal bridges in ``same`` lets them through.
"""

from pierhead.driver.networkdriver import marks

SETS = """
  map exact4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map ranges4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
  map exact6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
  map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map ranges6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
  set bridges { type ifname; }
  set internal { type ifname; }
  set same { type ifname . ifname; }
  set quiet { type ifname . ifname; }
  set linked4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval; }
  set gateways4 { type ipv4_addr; }
  set gateways6 { type ipv6_addr; }
  set subnets4 { type ipv4_addr; flags interval; }
  set subnets6 { type ipv6_addr; flags interval; }
  set own4 { type ipv4_addr . ifname; flags interval; }
  set own6 { type ipv6_addr . ifname; flags interval; }
  set trusted4 { type ipv4_addr . ifname; flags interval; }
  set trusted6 { type ipv6_addr . ifname; flags interval; }
  set masqueraded4 { type ipv4_addr; flags interval; }
  set masqueraded6 { type ipv6_addr; flags interval; }
  set closed4 { type ipv4_addr . inet_proto . inet_service; flags interval; }
  set closed6 { type ipv6_addr . inet_proto . inet_service; flags interval; }
  set apart4 { type ifname . ipv4_addr . inet_proto . inet_service; flags interval; }
  set apart6 { type ifname . ipv6_addr . inet_proto . inet_service; flags interval; }
  set opened4 { type ipv4_addr . inet_proto . inet_service; flags interval; }
  set opened6 { type ipv6_addr . inet_proto . inet_service; flags interval; }
  set routed4 { type ifname; }
  set routed6 { type ifname; }
  set unprotected4 { type ifname; }
  set unprotected6 { type ifname; }
  set guests { type ifname; }
  set alike { type ifname . ifname; }
"""
CHAINS = """
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip6 daddr ::1 drop
  }
  chain guard {
    type filter hook prerouting priority mangle; policy accept;
    ct state established,related accept
    iifname @internal ip daddr != { 255.255.255.255, 224.0.0.0/4 } ip daddr . iifname != @own4 drop
    iifname @internal ip6 daddr != { ff00::/8, fe80::/10 } ip6 daddr . iifname != @own6 drop
    ip daddr @gateways4 accept
    ip6 daddr @gateways6 accept
    ip daddr . iifname @trusted4 accept
    ip6 daddr . iifname @trusted6 accept
    iifname != "lo" ip daddr @subnets4 ip daddr . iifname != @own4 drop
    iifname != "lo" ip6 daddr @subnets6 ip6 daddr . iifname != @own6 drop
  }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @exact4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip to ip daddr . meta l4proto . th dport map @ranges4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6
    dnat ip6 to meta l4proto . th dport map @any6
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    %(apart)s
    %(translated)s fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ct status dnat fib saddr type local masquerade
    oifname @bridges ct status dnat ip saddr . oifname @own4 masquerade
    oifname @bridges ct status dnat ip6 saddr . oifname @own6 masquerade
    oifname != "lo" ip saddr @masqueraded4 ip saddr . oifname != @own4 masquerade
    oifname != "lo" ip6 saddr @masqueraded6 ip6 saddr . oifname != @own6 masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname . oifname @same accept
    iifname . oifname @quiet ct status dnat accept
    iifname . oifname @quiet ip saddr . ip daddr . meta l4proto . th dport @linked4 accept
    iifname . oifname @quiet ct state established ip daddr . ip saddr . meta l4proto . th sport @linked4 accept
    iifname . oifname @quiet drop
    iifname @internal drop
    oifname @internal drop
    oifname @bridges ct status dnat accept
    %(reached)s oifname @bridges ip daddr . meta l4proto . th dport @opened4 accept
    %(reached)s oifname @bridges ip6 daddr . meta l4proto . th dport @opened6 accept
    oifname @routed4 meta l4proto icmp accept
    oifname @routed6 meta l4proto ipv6-icmp accept
    iifname @bridges oifname @bridges drop
    %(reached)s oifname @unprotected4 meta nfproto ipv4 accept
    %(reached)s oifname @unprotected6 meta nfproto ipv6 accept
    oifname @bridges drop
    iifname @bridges accept
  }
"""
APART = {
    4: "iifname . ip daddr . meta l4proto . th dport @apart4 return",
    6: "iifname . ip6 daddr . meta l4proto . th dport @apart6 return",
}
"""For each IP version whose bridged frames pass the IP hooks."""
LOCAL = """
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "lo" accept
    %(ours)s accept
    meta l4proto tcp ip daddr . meta l4proto . th dport @closed4 reject with tcp reset
    meta l4proto tcp ip6 daddr . meta l4proto . th dport @closed6 reject with tcp reset
    ip daddr . meta l4proto . th dport @closed4 drop
    ip6 daddr . meta l4proto . th dport @closed6 drop
  }
"""
GROUP = f"{marks.GROUP_MASK:#x} == {marks.GROUP_MARK:#x}"
OURS = f"iifgroup & {GROUP}"
"""What comes from a container, of whichever Pierhead on this host."""
STRANGERS = """
  chain %(chain)s {
    type filter hook forward priority 1; policy accept;
    meta nfproto != %(protocol)s accept
    iifgroup & %(group)s accept
    oifgroup & %(group)s accept
    iifname @bridges accept
    oifname @bridges accept
    iifname @guests accept
    oifname @guests accept
    iifname . oifname @alike accept
    drop
  }
"""
STRANGERS_OF = {4: "strangers4", 6: "strangers6"}
"""The chains that say that an engine turned forwarding on: other instances look for them."""

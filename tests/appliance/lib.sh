# What the scripts have in common that run inside the appliance (tests/vm/appliance): hosts around the router, which is
# the machine itself, their traffic, and checks.
#
#   lan 10.1.0.2 --lan0-+-wan0-- wan 10.2.0.2, and behind it, by an IPsec tunnel only, site 10.3.0.2; the same over IPv6,
#                                fd00:NET::2
# shellcheck shell=bash disable=SC2034
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
failures=0

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
good() { printf '  ok    %s\n' "$*"; }
bad() { printf '  FAIL  %s\n' "$*"; failures=$((failures + 1)); }
check() { # TEXT COMMAND...
    local text=$1
    shift
    if "$@"; then good "$text"; else bad "$text"; fi
}
until_so() { # COMMAND...: within two minutes
    local end=$((SECONDS + 120))
    until "$@"; do ((SECONDS < end)) || return 1; done
}
within() { # MS-BEFORE: how long ago
    local now=$EPOCHREALTIME
    echo $((${now/./} / 1000 - $1))
}
now_ms() { within 0; }
show() { printf '\n$ %s\n' "$*"; "$@"; }

lan() { ip netns exec lan "$@"; }
wan() { ip netns exec wan "$@"; }

cable() { # HOST NET: the router's port HOST0
    ip netns add "$1"
    ip link add "${1}0" type veth peer name eth0 netns "$1"
    ip addr add "10.$2.0.1/24" dev "${1}0"
    ip addr add "fd00:$2::1/64" dev "${1}0" nodad
    ip link set "${1}0" up
    ip -n "$1" link set lo up
    ip -n "$1" addr add "10.$2.0.2/24" dev eth0
    ip -n "$1" addr add "fd00:$2::2/64" dev eth0 nodad
    ip -n "$1" link set eth0 up
    ip -n "$1" route add default via "10.$2.0.1"
    ip -n "$1" route add default via "fd00:$2::1"
}

# Both ends of the tunnel between the router and wan: state and policy for 10.1.0.0/24 <-> 10.3.0.0/24.
key=0x6b65796b65796b65796b65796b65796b73616c74
tunnel() {
    local state="mode tunnel aead rfc4106(gcm(aes)) $key 128"
    wan ip addr add 10.3.0.2/32 dev lo
    ip xfrm state add src 10.2.0.1 dst 10.2.0.2 proto esp spi 0x101 reqid 1 $state
    ip xfrm state add src 10.2.0.2 dst 10.2.0.1 proto esp spi 0x102 reqid 1 $state
    wan ip xfrm state add src 10.2.0.1 dst 10.2.0.2 proto esp spi 0x101 reqid 1 $state
    wan ip xfrm state add src 10.2.0.2 dst 10.2.0.1 proto esp spi 0x102 reqid 1 $state
    ip route add 10.3.0.0/24 via 10.2.0.2
    ip xfrm policy add src 10.1.0.0/24 dst 10.3.0.0/24 dir out tmpl src 10.2.0.1 dst 10.2.0.2 proto esp reqid 1 mode tunnel
    ip xfrm policy add src 10.3.0.0/24 dst 10.1.0.0/24 dir fwd tmpl src 10.2.0.2 dst 10.2.0.1 proto esp reqid 1 mode tunnel
    wan ip xfrm policy add src 10.3.0.0/24 dst 10.1.0.0/24 dir out tmpl src 10.2.0.2 dst 10.2.0.1 proto esp reqid 1 mode tunnel
    wan ip xfrm policy add src 10.1.0.0/24 dst 10.3.0.0/24 dir in tmpl src 10.2.0.1 dst 10.2.0.2 proto esp reqid 1 mode tunnel
}

# The wires, and a server on every port that the scripts ask.
network() {
    # A cable between namespaces is this queue, which a host that sends faster than an emulated router forwards fills.
    sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.core.netdev_max_backlog=100000
    cable lan 1
    cable wan 2
    tunnel
    local port
    for port in "$@"; do
        wan python3 "$here/traffic.py" serve "$port" &
        until_so wan bash -c ": >/dev/tcp/127.0.0.1/$port" 2>/dev/null
    done
}
ask() { lan python3 "$here/traffic.py" ask "$@"; } # PROTOCOL ADDRESS PORT NUMBER

who_drops() { # the second column of each processor's queue; sockets; neighbours; the table
    cat /proc/uptime /proc/net/softnet_stat
    local host
    for host in '' lan wan; do
        ip ${host:+netns exec "$host" ip} -s neigh
        ${host:+"$host"} nstat -as | grep -E 'Drop|Discard|Err|NoRoute|NoPorts'
    done
    ip -s link
    conntrack -S
}

# Traffic that goes on while something happens, and what it says of itself in the end.
declare -A ongoing
begin() { # NAME WORDS...: of traffic.py
    ip netns exec lan python3 "$here/traffic.py" "${@:2}" >"/tmp/$1.said" &
    ongoing[$1]=$!
}
end() { # NAME TEXT
    kill -TERM "${ongoing[$1]}" 2>/dev/null
    if wait "${ongoing[$1]}"; then good "$2: $(<"/tmp/$1.said")"; else bad "$2: $(<"/tmp/$1.said")" && who_drops; fi
    unset "ongoing[$1]"
}

# --- the daemon on D-Bus ---

manager() { busctl --json=short get-property org.ctcached1 /org/ctcached1 org.ctcached1.Manager "$1" | sed 's/^{"type":"[^"]*","data"://; s/}$//'; }
number_of() { grep -oE "\"$1\":[0-9]+" | cut -d: -f2; }
statistic() { manager Statistics | number_of "$1"; } # NAME
zone() { # ZONE NAME: of the zone's Statistics
    busctl --json=short get-property org.ctcached1 "/org/ctcached1/zone/$1" org.ctcached1.Zone Statistics | number_of "$2"
}
active() { [[ $(manager CacheState) == '"active"' ]]; }
hits_grow() { # within a minute, by traffic
    local before
    before=$(statistic cache_hits)
    until_so eval 'ask udp 10.2.0.2 5000 20 >/dev/null && (($(statistic cache_hits) > before))'
}

# --- packages ---

apt() { apt-get -q -y -o Dpkg::Options::=--force-confold "$@" >/tmp/apt 2>&1 || { tail -20 /tmp/apt; false; }; }

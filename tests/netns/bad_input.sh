#!/bin/bash
# Bad input and a bad world: a message with the place or the object, the old policy goes on, nothing half-applied.

. "$(dirname "$0")/lib.sh"

good='{ version: 1, zones: [ { name: web, match: [ { protocol: tcp, ports: [80] } ] } ] }'
started() {
    setup
    policy <<<"$good"
    daemon_start
    whole=$(router nft -s list table inet ctcached)
}
# What follows a bad reload: still there, still the same table, still answering; and the next good policy is applied.
goes_on() {
    kill -0 "$(daemon_pid)"
    equals "$whole" router nft -s list table inet ctcached
    rm -rf "$work/policy.yaml"
    policy <<<"${good/80/8080}"
    daemon_reload
    wait_until 20 shows 8080 router nft list table inet ctcached
}
refused_policy() { # TEXT PATTERN: applied to a running daemon
    started
    printf '%b' "$1" >"$work/policy.yaml.new" && mv "$work/policy.yaml.new" "$work/policy.yaml"
    daemon_reload
    logged "$2"
    goes_on
}

test_broken_yaml() { refused_policy 'version: 1\nzones: [ {\n' 'policy.yaml:[0-9]+:[0-9]+: error'; }
test_unknown_key() { refused_policy 'version: 1\nzonez: []\n' 'policy.yaml:2:1: error: .*zonez'; }
test_wrong_type() { refused_policy 'version: 1\nzones: 7\n' 'policy.yaml:2:8: error'; }
test_all_errors_at_once() {
    refused_policy 'version: 1\nzones:\n  - { name: a, id: 70000, match: [ { protocol: tcp, ports: [99999] } ] }\n  - { name: a, match: [] }\n' \
        'policy.yaml:3:[0-9]+: error'
    logged 'policy.yaml:4:[0-9]+: error'
}
test_binary_noise() { refused_policy '\x00\x01\xff\xfe\x80binary' 'policy.yaml.*error'; }
test_alias_bomb() {
    refused_policy 'a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n' \
        'policy.yaml.*error'
}
test_deep_nesting() { refused_policy "$(printf '[%.0s' {1..20000})" 'policy.yaml.*error'; }
test_empty_file_means_no_zones() {
    started
    : >"$work/policy.yaml"
    daemon_reload
    kill -0 "$(daemon_pid)"
}
test_huge_file() {
    started
    head -c 20000000 /dev/zero | tr '\0' '#' >"$work/policy.yaml.new" && mv "$work/policy.yaml.new" "$work/policy.yaml"
    daemon_reload
    logged 'policy.yaml.*error'
    goes_on
}
test_directory_in_place_of_a_file() { # a folder is a valid path of policies: an empty one; a folder named x.yaml in it is not
    setup
    mkdir -p "$work/conf/policies.d/20-bad.yaml"
    echo "$good" >"$work/conf/ctcached.yaml"
    daemon_options+=(--config "$work/conf")
    policy <<<'{ version: 1 }'
    supervise
    command_daemon start
    wait_until 20 more_events 'exit .*' 0
    logged '20-bad.yaml: error|20-bad.yaml.*error'
    not shows . router nft list table inet ctcached
}
test_missing_file() {
    started
    rm "$work/policy.yaml"
    daemon_reload
    logged 'policy.yaml.*(No such file|error)'
    goes_on
}
test_unreadable_file() { # for a daemon without the right to override
    wrapper=(setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -dac_override,-dac_read_search)
    setup
    policy <<<"$good"
    chown -R daemon "$work"
    chmod 755 "$work"
    daemon_start
    whole=$(router nft -s list table inet ctcached)
    chmod 000 "$work/policy.yaml"
    daemon_reload
    logged 'policy.yaml.*(Permission denied|error)'
    kill -0 "$(daemon_pid)"
    equals "$whole" router nft -s list table inet ctcached
}
test_bad_at_the_first_start() { # no READY=1, a clear message, status 2, no table
    setup
    policy <<<'{ version: 1, zones: [ { name: "", match: [] } ] }'
    supervise
    command_daemon start
    wait_until 20 more_events 'exit .*' 0
    equals 'exit 2' tail -n1 "$work/daemon/events"
    equals 0 events 'notify READY=1'
    logged 'policy.yaml:1:[0-9]+: error'
    not shows . router nft list table inet ctcached
}
test_bad_at_a_later_start() { # the last good policy carries on, and the state says why
    setup
    start_bus
    policy <<<"$good"
    daemon_start
    whole=$(router nft -s list table inet ctcached)
    wait_until 10 on_bus
    equals '"running"' property /org/ctcached1 Manager State
    not logged ' bus: .*(not|No) ' # what is under way is no trouble
    policy <<<'{ version: 1, zones: 3 }'
    for _ in 1 2; do # not only the first time
        daemon_restart
        logged 'policy.yaml:1:[0-9]+: error'
        logged 'going on with the policy that was applied last'
        equals "$whole" router nft -s list table inet ctcached
        wait_until 10 on_bus
        equals '"degraded"' property /org/ctcached1 Manager State
        shows 'not applied: .*policy.yaml:1:[0-9]+: error' property /org/ctcached1 Manager Degraded
        equals "$good" jq -r '.[].text' "$work/state/policy.json"
    done
    goes_on
    equals '"running"' property /org/ctcached1 Manager State
    equals '[]' property /org/ctcached1 Manager Degraded
}
test_bad_at_a_later_start_without_the_last_good() {
    started
    end_daemon TERM
    policy <<<'{ version: 1, zones: 3 }'
    echo '{' >"$work/state/policy.json"
    command_daemon start
    wait_until 20 more_events 'exit .*' 1
    equals 'exit 2' tail -n1 "$work/daemon/events"
    has_rules # flows live on in the table that is there
}
without_module() { [[ ! -e /sys/module/nf_ctcache ]] || skip "nf_ctcache is loaded"; }
test_cache_required_without_module() { # at the start: refused, with the reason, and nothing is done
    without_module
    setup
    policy <<<"${good/zones/cache: { mode: required \}, zones}"
    supervise
    command_daemon start
    wait_until 20 more_events 'exit .*' 0
    equals 'exit 1' tail -n1 "$work/daemon/events"
    equals 0 events 'notify READY=1'
    logged 'not started: .*cache.mode is .required., but the module nf_ctcache is not loaded'
    not shows . router nft list table inet ctcached
}
test_cache_required_by_a_reload() {
    without_module
    refused_policy 'version: 1\ncache: { mode: required }\n' 'cache.mode is .required., but the module nf_ctcache is not loaded'
}
test_clear_twice() {
    started
    end_daemon TERM
    has_rules
    for _ in 1 2; do
        router "$CTCACHED" --clear
        not shows . router nft list table inet ctcached
    done
}
test_full_disk_below_the_state() {
    setup
    mkdir "$work/state"
    policy <<<"$good"
    # A mount namespace of its own, so that the tmpfs goes with the daemon. One page: full after the first file.
    wrapper=(unshare --mount sh -c 'mount -t tmpfs -o size=4k,nr_inodes=3 tmpfs "$0" && head -c 4096 /dev/zero >"$0/full"; exec "$@"' "$work/state")
    daemon_start
    logged 'No space left'
    [[ -n $(zone_id web) ]]
    policy <<<"${good/80/8080}"
    daemon_reload
    shows 8080 router nft list table inet ctcached
}
test_state_folder_missing_and_not_makeable() {
    setup
    policy <<<"$good"
    : >"$work/state-file"
    state_dir=$work/state-file/x
    supervise
    command_daemon start
    wait_until 20 ready_or_dead 0 0
    logged 'state-file'
}
test_without_cap_net_admin() {
    setup
    policy <<<"$good"
    wrapper=(setpriv --bounding-set -net_admin --inh-caps -net_admin)
    supervise
    command_daemon start
    wait_until 20 more_events 'exit .*' 0
    equals 'exit 1' tail -n1 "$work/daemon/events"
    equals 0 events 'notify READY=1'
    logged '(not permitted|EPERM|CAP_NET_ADMIN)'
}
test_without_root() { # each action that needs it says so
    local action output
    setup
    policy <<<"$good"
    chmod 755 "$work"
    mkdir -m 777 "$work/open"
    for action in "--runtime-dir $work/run" "--runtime-dir $work/open" --diff --clear; do
        output=$(router setpriv --reuid daemon --regid daemon --clear-groups "$CTCACHED" --config "$work/policy.yaml" \
            --state-dir "$work/open" --bus none $action 2>&1) && fail "$action passed"
        echo "$action: $output"
        grep -q 'must run as root, with CAP_NET_ADMIN' <<<"$output"
    done
}
test_without_bus() { # reported, not fatal
    setup
    policy <<<"$good"
    daemon_options=(--bus "unix:path=$work/no-such-bus")
    daemon_start
    wait_until 5 logged 'no-such-bus bus: .*No such file'
    equals 1 grep -c web <(router nft list set inet ctcached zones)
    daemon_reload
}
test_second_daemon() {
    local output
    started
    output=$(router "$CTCACHED" --config "$work/policy.yaml" --state-dir "$work/state" --runtime-dir "$work/run" --bus none 2>&1) &&
        fail "two daemons"
    grep -q 'another ctcached' <<<"$output"
}
test_check_needs_nothing() { # no root, no daemon, no network rights
    setup
    echo "${good/80/99999}" >"$work/bad.yaml"
    chmod 755 "$work"
    output=$(router setpriv --reuid daemon --regid daemon --clear-groups "$CTCACHED" --check "$work/bad.yaml") && fail "passed"
    grep -qE 'bad.yaml:1:[0-9]+: error' <<<"$output"
}

run_tests "$@"

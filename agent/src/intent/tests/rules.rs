//! Every rule of the schema, with a manifest that keeps it and one that breaks it.

use super::super::Object;
use super::super::schema::Checker;

/// A manifest of each kind that keeps all rules.
fn good(kind: &str) -> &'static str {
    match kind {
        "VRFAttachment" => {
            "{vrf: {name: red, table: 10001}, interfaces: [{name: eth1}, {name: v5, type: VLAN, vlan: {parent: eth1, id: 5}}], gateways: [{address: 192.0.2.1, interface: eth1}]}"
        }
        "RouteImport" => "{from: {table: 5000}, into: {table: Main}, allowed: {mode: All}}",
        "TrafficPolicy" => {
            "{rules: [{name: a, match: {destinations: [10.0.0.0/8]}, action: {vrf: {name: red, table: 10001}}}]}"
        }
        "ReturnPath" => "{interfaces: [{name: eth1}]}",
        _ => "{}",
    }
}

thread_local! {
    static CHECKER: Checker = Checker::new();
}

/// What is wrong with an object: `field: message`.
fn errors(kind: &str, name: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "{{apiVersion: backtrail.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    let manifest = serde_saphyr::from_str(&text).unwrap();
    match CHECKER.with(|checker| checker.check(kind, &manifest)) {
        Ok(valid) => {
            Object::from_value(valid).unwrap();
            Vec::new()
        }
        Err(errors) => errors.into_iter().map(|e| format!("{}: {}", e.field, e.message)).collect(),
    }
}

/// Breaks a good manifest at one place and expects one error there.
#[track_caller]
fn breaks(kind: &str, old: &str, new: &str, expected: &str) {
    let spec = good(kind);
    assert!(spec.contains(old), "{old} is in the good manifest");
    assert_eq!(errors(kind, "x", &spec.replace(old, new)), [expected]);
}

/// A change that keeps all rules.
#[track_caller]
fn keeps(kind: &str, old: &str, new: &str) {
    assert_eq!(errors(kind, "x", &good(kind).replace(old, new)), [] as [String; 0]);
}

const CIDR: &str = "must be a prefix such as 10.20.0.0/16 or 2001:db8::/32";
const INTERFACE: &str =
    "must be an interface name: 1 to 15 characters without space, slash, colon or wildcard";

#[test]
fn words_that_yaml_takes_for_something_else_are_named() {
    let quote = "put it in quotes";
    for (name, read) in [("y", "boolean true"), ("no", "boolean false"), ("42", "number 42")] {
        let errors = errors("ReturnPath", name, good("ReturnPath"));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with("metadata.name: ")
                && errors[0].contains(read)
                && errors[0].ends_with(quote),
            "{errors:?}"
        );
    }
    let errors = errors("ReturnPath", "x", "{interfaces: [{name: on}]}");
    assert!(
        errors[0].starts_with("spec.interfaces[0].name: ") && errors[0].contains("boolean"),
        "{errors:?}"
    );
}

#[test]
fn probes_have_what_their_kind_needs() {
    let spec = |probe: &str| format!("{{apply: {{mode: DryRun, probes: [{{{probe}}}]}}}}");
    for good in [
        "type: APIServer",
        "type: TCP, address: 192.0.2.1, port: 443",
        "type: ICMP, address: '2001:db8::1', timeout: 3s",
    ] {
        assert_eq!(errors("DataplaneConfig", "default", &spec(good)), [] as [String; 0], "{good}");
    }
    for (bad, message) in [
        ("type: TCP, address: 192.0.2.1", "TCP needs a port, the others have none"),
        ("type: ICMP, address: 192.0.2.1, port: 7", "TCP needs a port, the others have none"),
        ("type: ICMP", "TCP and ICMP need an address; APIServer has its own"),
        ("type: APIServer, address: 192.0.2.1", "TCP and ICMP need an address; APIServer has its own"),
        ("type: APIServer, timeout: 10ms", "must be 1s to 5m"),
    ] {
        let found = errors("DataplaneConfig", "default", &spec(bad));
        assert!(found.len() == 1 && found[0].ends_with(message), "{bad}: {found:?}");
    }
}

#[test]
fn good_manifests_have_no_errors() {
    for kind in ["VRFAttachment", "RouteImport", "TrafficPolicy", "ReturnPath"] {
        assert_eq!(errors(kind, "x", good(kind)), [] as [String; 0]);
    }
    assert_eq!(errors("DataplaneConfig", "default", "{}"), [] as [String; 0]);
}

#[test]
fn unknown_and_missing_fields() {
    let kind = "RouteImport";
    breaks(
        kind,
        "from: {",
        "form: 1, from: {",
        "spec.form: unknown field; known here: action, allowed, defaultRoute, from, into, maxRoutes, metric, multipath, nodeSelector, onFeedLoss, onLimit, preferredSource",
    );
    breaks(kind, "from: {table: 5000}, ", "", "spec.from: is missing");
    breaks(
        kind,
        "{table: 5000}",
        "{table: 5000, protocol: BGP}",
        "spec.from.protocol: unknown field; known here: interfaces, protocols, table",
    );
    breaks(
        "VRFAttachment",
        "{name: eth1}",
        "{nam: eth1, name: eth1}",
        "spec.interfaces[0].nam: unknown field; known here: addresses, name, preserveAddresses, type, vlan",
    );
}

#[test]
fn types_and_bounds() {
    let kind = "RouteImport";
    breaks(kind, "table: 5000", "table: a", "spec.from.table: must be a whole number");
    breaks(kind, "table: 5000", "table: 0", "spec.from.table: 0 is not in 1 to 4294967295");
    breaks(kind, "table: 5000", "table: 4294967296", "spec.from.table: 4294967296 is not in 1 to 4294967295");
    breaks(kind, "{table: 5000}", "5000", "spec.from: must be an object: field: value, or {field: value}");
    breaks(
        kind,
        "{table: 5000}",
        "{table: 5000, protocols: BGP}",
        "spec.from.protocols: must be a list: [a, b], or lines with '- '",
    );
    breaks(
        kind,
        "{table: 5000}",
        "{table: 5000, protocols: [EGP]}",
        "spec.from.protocols[0]: EGP is not one of BGP, OSPF, ISIS, Static, RIP, Any",
    );
    breaks(
        kind,
        "{table: 5000}",
        "{table: 5000, protocols: [BGP, BGP]}",
        "spec.from.protocols[1]: repeats the entry of an earlier entry: remove one",
    );
    breaks(kind, "mode: All", "mode: all", "spec.allowed.mode: all is not one of Filtered, All");
    breaks(
        "TrafficPolicy",
        "match: {",
        "match: {hostTraffic: 1, ",
        "spec.rules[0].match.hostTraffic: must be true or false",
    );
    breaks(
        "TrafficPolicy",
        "[{name: a, match: {destinations: [10.0.0.0/8]}, action: {vrf: {name: red, table: 10001}}}]",
        "[]",
        "spec.rules: has 0 entries, at least 1 is needed",
    );
    breaks("VRFAttachment", "id: 5", "id: 4095", "spec.interfaces[1].vlan.id: 4095 is not in 1 to 4094");
    breaks(
        "VRFAttachment",
        "name: v5",
        "name: eth1",
        "spec.interfaces[1]: repeats the name of an earlier entry: remove one",
    );
    let many = (0..33).map(|i| format!("e{i}")).collect::<Vec<_>>().join(", ");
    breaks(
        kind,
        "{table: 5000}",
        &format!("{{table: 5000, interfaces: [{many}]}}"),
        "spec.from.interfaces: has 33 entries, at most 32 are allowed",
    );
}

#[test]
fn null_means_absent() {
    keeps("RouteImport", "allowed:", "preferredSource: null, metric: null, allowed:");
    breaks("RouteImport", "from: {table: 5000}", "from: null", "spec.from: is missing");
}

#[test]
fn metadata() {
    let error = "metadata.name: must hold at most 253 lower-case letters, digits, '-' and '.', and begin and end with a letter or digit";
    assert_eq!(errors("ReturnPath", "Big", good("ReturnPath")), [error]);
    assert_eq!(
        errors("DataplaneConfig", "other", "{}"),
        ["metadata.name: the only DataplaneConfig is named default"]
    );
}

#[test]
fn vrf_identity() {
    let kind = "VRFAttachment";
    let letters = "must begin with a letter and hold at most 15 letters, digits, '_', '.' and '-'";
    let kernel = "tables 253 to 255 belong to the kernel: choose one of DataplaneConfig's spec.ownership.tables (10000 to 10999)";
    breaks(
        kind,
        "name: red",
        "name: default",
        "spec.vrf.name: 'default' is reserved: routes for main go into: {table: Main}",
    );
    breaks(kind, "name: red", "name: 1red", &format!("spec.vrf.name: {letters}"));
    breaks(
        kind,
        "name: red",
        "name: a234567890123456",
        "spec.vrf.name: a234567890123456 has 16 characters, at most 15 are allowed",
    );
    breaks(kind, "table: 10001", "table: 0", "spec.vrf.table: 0 is not in 1 to 4294967295");
    for table in [253, 254, 255] {
        breaks(kind, "table: 10001", &format!("table: {table}"), &format!("spec.vrf.table: {kernel}"));
        breaks(
            "TrafficPolicy",
            "table: 10001",
            &format!("table: {table}"),
            &format!("spec.rules[0].action.vrf.table: {kernel}"),
        );
    }
}

#[test]
fn interfaces_and_vlans() {
    let kind = "VRFAttachment";
    let vlan = "vlan must be set with type VLAN, and only then";
    breaks(kind, "type: VLAN, ", "", &format!("spec.interfaces[1]: {vlan}"));
    breaks(kind, ", vlan: {parent: eth1, id: 5}", "", &format!("spec.interfaces[1]: {vlan}"));
    breaks(kind, "parent: eth1", "parent: v5", "spec.interfaces[1]: vlan.parent must be another interface");
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1}, {name: a/b}",
        &format!("spec.interfaces[1].name: {INTERFACE}"),
    );
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1}, {name: 'eth*'}",
        &format!("spec.interfaces[1].name: {INTERFACE}"),
    );
    breaks(
        kind,
        "interface: eth1",
        "interface: eth9",
        "spec: gateways: interface must be one of the interfaces of this object",
    );
    breaks(
        kind,
        "address: 192.0.2.1",
        "address: 192.0.2.256",
        "spec.gateways[0].address: must be an IPv4 or IPv6 address",
    );
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1, addresses: [192.0.2.1]}",
        "spec.interfaces[0].addresses[0]: must be an address with prefix length, such as 192.0.2.10/24",
    );
    keeps(kind, "{name: eth1}", "{name: eth1, addresses: [192.0.2.10/24, '2001:db8::10/64']}");
}

#[test]
fn where_routes_go() {
    let kind = "RouteImport";
    breaks(kind, "{table: Main}", "{}", "spec.into: give vrf or table, one of the two");
    breaks(
        kind,
        "{table: Main}",
        "{table: Main, vrf: {name: red, table: 10001}}",
        "spec.into: give vrf or table, one of the two",
    );
    breaks(
        kind,
        "{table: Main}",
        "{table: main}",
        "spec.into: table must be Main or a number from 1 to 4294967295",
    );
    breaks(
        kind,
        "{table: Main}",
        "{table: 4294967296}",
        "spec.into: table must be Main or a number from 1 to 4294967295",
    );
    for table in [253, 254, 255] {
        breaks(
            kind,
            "{table: Main}",
            &format!("{{table: {table}}}"),
            "spec.into: tables 0 and 253 to 255 belong to the kernel: for main write table: Main",
        );
    }
    assert_eq!(errors(kind, "x", &good(kind).replace("{table: Main}", "{table: 0}")).len(), 2);
    keeps(kind, "{table: Main}", "{table: 10001}");
    keeps(kind, "{table: Main}", "{vrf: {name: red, table: 10001}}");
}

#[test]
fn into_where_it_comes_from_is_observe() {
    let kind = "RouteImport";
    let main = "from: {table: 254}";
    breaks(
        kind,
        "from: {table: 5000}",
        main,
        "spec: into Main from table 254 writes into the table that the routes come from: set action: Observe",
    );
    keeps(kind, "from: {table: 5000}", "action: Observe, from: {table: 254}");
    breaks(
        kind,
        "into: {table: Main}",
        "into: {table: 5000}",
        "spec: into.table equals from.table: set action: Observe",
    );
    keeps(kind, "into: {table: Main}", "action: Observe, into: {table: 5000}");
    breaks(
        kind,
        "into: {table: Main}",
        "into: {vrf: {name: red, table: 5000}}",
        "spec: into.vrf.table equals from.table: set action: Observe",
    );
    keeps(kind, "into: {table: Main}", "action: Observe, into: {vrf: {name: red, table: 5000}}");
}

#[test]
fn allowed_prefixes() {
    let kind = "RouteImport";
    let list = |entry: &str| format!("mode: Filtered, prefixes: [{entry}]");
    let at = "spec.allowed.prefixes[0]";
    let both = "spec.allowed: prefixes must be given with mode Filtered, and only then";
    breaks(kind, "mode: All", "mode: Filtered", both);
    breaks(kind, "mode: All", "mode: All, prefixes: [{prefix: 10.0.0.0/8}]", both);
    breaks(kind, "mode: All", &list("{prefix: 10.0.0.0}"), &format!("{at}.prefix: {CIDR}"));
    breaks(kind, "mode: All", &list("{prefix: 10.0.0.0/33}"), &format!("{at}.prefix: {CIDR}"));
    breaks(
        kind,
        "mode: All",
        &list("{prefix: 10.1.2.3/16}"),
        &format!("{at}.prefix: must have no host bits: write 10.20.0.0/16, not 10.20.1.2/16"),
    );
    breaks(
        kind,
        "mode: All",
        &list("{prefix: 10.0.0.0/8, ge: 25, le: 24}"),
        &format!("{at}: ge must not be greater than le"),
    );
    breaks(
        kind,
        "mode: All",
        &list("{prefix: 10.0.0.0/8, ge: 7}"),
        &format!("{at}: ge must not be shorter than the prefix"),
    );
    breaks(
        kind,
        "mode: All",
        &list("{prefix: 10.0.0.0/8, le: 7}"),
        &format!("{at}: le must not be shorter than the prefix"),
    );
    breaks(
        kind,
        "mode: All",
        &list("{prefix: 10.0.0.0/8, le: 33}"),
        &format!("{at}: ge and le of an IPv4 prefix are at most 32"),
    );
    keeps(
        kind,
        "mode: All",
        &list("{prefix: 10.0.0.0/8, ge: 9, le: 24}, {prefix: '2001:db8::/32', le: 128}"),
    );
}

#[test]
fn default_route_must_be_said() {
    let kind = "RouteImport";
    let message = "spec: allowed.prefixes holds the default route: set defaultRoute to Accept or Backup, or give the prefix ge or le";
    for prefix in ["0.0.0.0/0", "'::/0'"] {
        let list = format!("mode: Filtered, prefixes: [{{prefix: {prefix}}}]");
        breaks(kind, "mode: All", &list, message);
        keeps(kind, "allowed: {mode: All}", &format!("defaultRoute: Accept, allowed: {{{list}}}"));
    }
    keeps(kind, "mode: All", "mode: Filtered, prefixes: [{prefix: 0.0.0.0/0, le: 32}]");
}

#[test]
fn durations() {
    let kind = "RouteImport";
    let loss = |timeout: &str| format!("onFeedLoss: {{timeout: {timeout}}}, from:");
    for timeout in ["0s", "120s", "1h30m", "500ms"] {
        keeps(kind, "from:", &loss(timeout));
    }
    for timeout in ["-5s", "12", "5d", "soon"] {
        let errors = errors(kind, "x", &good(kind).replace("from:", &loss(&format!("'{timeout}'"))));
        assert_eq!(
            errors,
            ["spec.onFeedLoss.timeout: must be a duration such as 90s, 2m or 1h30m"],
            "{timeout}"
        );
    }
    let idle = "flowTable: {tcpIdle: 0s}, interfaces:";
    breaks("ReturnPath", "interfaces:", idle, "spec.flowTable.tcpIdle: must be longer than 0s");
}

#[test]
fn traffic_rules() {
    let kind = "TrafficPolicy";
    let at = "spec.rules[0].match";
    breaks(
        kind,
        "destinations: [10.0.0.0/8]",
        "",
        &format!("{at}: give at least one of destinations, sources and ingressInterfaces"),
    );
    breaks(
        kind,
        "10.0.0.0/8",
        "10.0.0.1/8",
        &format!("{at}.destinations[0]: must have no host bits: write 10.20.0.0/16, not 10.20.1.2/16"),
    );
    let ports = "destinationPorts need protocol TCP, UDP or SCTP";
    breaks(kind, "match: {", "match: {destinationPorts: [{from: 80}], ", &format!("{at}: {ports}"));
    breaks(
        kind,
        "match: {",
        "match: {protocol: ICMP, destinationPorts: [{from: 80}], ",
        &format!("{at}: {ports}"),
    );
    keeps(
        kind,
        "match: {",
        "match: {protocol: TCP, destinationPorts: [{from: 80}, {from: 5000, to: 5100}], ",
    );
    breaks(
        kind,
        "match: {",
        "match: {protocol: TCP, destinationPorts: [{from: 80, to: 79}], ",
        &format!("{at}.destinationPorts[0]: from must not be greater than to"),
    );
    breaks(
        kind,
        "match: {",
        "match: {sources: ['2001:db8::/32'], ",
        &format!("{at}: destinations and sources have no address family in common: no packet matches"),
    );
    keeps(kind, "match: {", "match: {sources: ['2001:db8::/32', 192.0.2.0/24], ");
    breaks(
        kind,
        "name: a,",
        "name: A_b,",
        "spec.rules[0].name: must hold lower-case letters, digits and '-' only",
    );
}

#[test]
fn return_paths() {
    let kind = "ReturnPath";
    let given = "ipv4 or ipv6 must be given with source Static, and only then";
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1, gateway: {source: Static}}",
        &format!("spec.interfaces[0].gateway: {given}"),
    );
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1, gateway: {ipv4: 192.0.2.1}}",
        &format!("spec.interfaces[0].gateway: {given}"),
    );
    keeps(kind, "{name: eth1}", "{name: eth1, gateway: {source: Static, ipv6: '2001:db8::1'}}");
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1, gateway: {source: Static, ipv4: '2001:db8::1'}}",
        "spec.interfaces[0].gateway.ipv4: must be an IPv4 address",
    );
    breaks(
        kind,
        "{name: eth1}",
        "{name: eth1, gateway: {source: Static, ipv6: 192.0.2.1}}",
        "spec.interfaces[0].gateway.ipv6: must be an IPv6 address",
    );
    breaks(
        kind,
        "{name: eth1}",
        "{name: 'bond0.*', gateway: {source: Static, ipv4: 192.0.2.1}}",
        "spec.interfaces[0]: gateway.source Static needs an exact interface name, not a glob",
    );
    keeps(kind, "{name: eth1}", "{name: 'bond0.*', gateway: {source: FromRoute}}");
}

#[test]
fn dataplane_config() {
    let wrong =
        |spec: &str, expected: &str| assert_eq!(errors("DataplaneConfig", "default", spec), [expected]);
    wrong(
        "{ownership: {tables: {from: 20000, to: 10000}}}",
        "spec.ownership.tables: from must not be greater than to",
    );
    wrong(
        "{ownership: {tables: {from: 200, to: 300}}}",
        "spec.ownership.tables: the range must not hold the kernel's tables 253 to 255",
    );
    wrong("{ownership: {routeProtocol: 4}}", "spec.ownership.routeProtocol: 4 is not in 5 to 255");
    wrong(
        "{ownership: {routeProtocol: 186}}",
        "spec.ownership.routeProtocol: this number belongs to zebra or another routing daemon: use 201",
    );
    wrong(
        "{ownership: {rulePriorities: {from: 900, to: 1189}}}",
        "spec.ownership.rulePriorities: the band lies between l3mdev's rule (1000) and the lookup of main (32766)",
    );
    wrong(
        "{ownership: {rulePriorities: {from: 1100, to: 1105}}}",
        "spec.ownership.rulePriorities: the band needs at least 10 priorities",
    );
    wrong(
        "{guardrails: {protectedPrefixes: [10.0.0.0]}}",
        &format!("spec.guardrails.protectedPrefixes[0]: {CIDR}"),
    );
    let listen = "spec.fpm.listen: must be an address and a port, such as 127.0.0.1:2620 or [::1]:2620";
    for address in ["localhost:2620", "127.0.0.1", "127.0.0.1:70000", "300.0.0.1:2620", "::1:2620"] {
        wrong(&format!("{{fpm: {{listen: '{address}'}}}}"), listen);
    }
    for address in ["0.0.0.0:2620", "[::]:2620", "[2001:db8::1]:65535"] {
        assert_eq!(
            errors("DataplaneConfig", "default", &format!("{{fpm: {{listen: '{address}'}}}}")),
            [] as [String; 0]
        );
    }
}

#[test]
fn names_of_vrf_and_table_cannot_change_in_place() {
    use kube::CustomResourceExt as _;
    use serde_json::json;
    let crd = serde_json::to_value(crate::api::VRFAttachment::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let object = |name: &str, table: u32, mode: &str| json!({"metadata": {"name": "x"}, "spec": {"vrf": {"name": name, "table": table, "mode": mode}}});
    let change = |old, new| {
        let errors = kube::core::cel::Validator::new().validate(schema, &new, Some(&old));
        errors.err().map(|e| e.into_vec().into_iter().map(|e| e.field_path).collect::<Vec<_>>())
    };
    let red = || object("red", 10001, "Adopt");
    assert_eq!(change(red(), red()), None);
    assert_eq!(change(red(), object("blue", 10001, "Adopt")), Some(vec!["spec.vrf.name".into()]));
    assert_eq!(change(red(), object("red", 10002, "Adopt")), Some(vec!["spec.vrf.table".into()]));
    assert_eq!(change(red(), object("red", 10001, "Create")), Some(vec!["spec.vrf".into()]));
    assert_eq!(change(object("red", 10001, "Create"), red()), None);
}

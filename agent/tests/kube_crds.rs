//! The CRDs on a real API server: what it takes, what it refuses and with which words, and what `kubectl` shows.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{ApiServer, Lab};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

/// A valid `spec` of each kind: (kind, plural, name, spec).
fn valid() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let vrf = json!({"name": "red", "table": 10001});
    vec![
        ("DataplaneConfig", "dataplaneconfigs", "default", json!({})),
        (
            "VRFAttachment",
            "vrfattachments",
            "red",
            json!({
                "vrf": vrf,
                "interfaces": [
                    {"name": "eth1.100", "type": "VLAN", "vlan": {"parent": "eth1", "id": 100}, "addresses": ["192.0.2.10/24"]},
                    {"name": "eth2"},
                ],
                "gateways": [{"address": "192.0.2.1", "interface": "eth2"}],
            }),
        ),
        (
            "RouteImport",
            "routeimports",
            "red",
            json!({
                "from": {"table": 5000},
                "allowed": {"mode": "Filtered", "prefixes": [{"prefix": "10.20.0.0/16", "ge": 17, "le": 24}]},
                "into": {"vrf": vrf},
            }),
        ),
        (
            "TrafficPolicy",
            "trafficpolicies",
            "red",
            json!({"rules": [{
                "name": "web",
                "match": {"destinations": ["10.20.0.0/16"], "protocol": "TCP", "destinationPorts": [{"from": 80, "to": 81}]},
                "action": {"vrf": vrf},
            }]}),
        ),
        (
            "ReturnPath",
            "returnpaths",
            "vips",
            json!({"interfaces": [{"name": "eth1", "gateway": {"source": "Static", "ipv4": "192.0.2.1"}}, {"name": "bond0.*"}]}),
        ),
    ]
}

/// Each rule: (kind, path of the field, bad value, what the server says: the field and the rule).
fn refused() -> Vec<(&'static str, &'static str, Value, [&'static str; 2])> {
    vec![
        ("VRFAttachment", "/vrf/name", json!("default"), ["spec.vrf.name", "'default' is reserved"]),
        ("VRFAttachment", "/vrf/name", json!("9red"), ["spec.vrf.name", "must begin with a letter"]),
        (
            "VRFAttachment",
            "/vrf/name",
            json!("longer-than-fifteen"),
            ["spec.vrf.name", "may not be more than 15"],
        ),
        ("VRFAttachment", "/vrf/table", json!(254), ["spec.vrf.table", "belong to the kernel"]),
        ("VRFAttachment", "/vrf/table", json!(0), ["spec.vrf.table", "greater than or equal to 1"]),
        ("VRFAttachment", "/vrf/mode", json!("Make"), ["spec.vrf.mode", "supported values"]),
        (
            "VRFAttachment",
            "/interfaces/0/vlan",
            Value::Null,
            ["spec.interfaces[0]", "vlan must be set with type VLAN"],
        ),
        (
            "VRFAttachment",
            "/interfaces/1/vlan",
            json!({"parent": "eth1", "id": 5}),
            ["spec.interfaces[1]", "vlan must be set with type VLAN"],
        ),
        (
            "VRFAttachment",
            "/interfaces/0/vlan/id",
            json!(4095),
            ["spec.interfaces[0].vlan.id", "less than or equal to 4094"],
        ),
        (
            "VRFAttachment",
            "/interfaces/0/vlan/parent",
            json!("eth1.100"),
            ["spec.interfaces[0]", "vlan.parent must be another interface"],
        ),
        ("VRFAttachment", "/interfaces/1/name", json!("eth1.100"), ["spec.interfaces[1]", "Duplicate value"]),
        (
            "VRFAttachment",
            "/interfaces/1/name",
            json!("a/b"),
            ["spec.interfaces[1].name", "1 to 15 characters"],
        ),
        (
            "VRFAttachment",
            "/interfaces/0/addresses/0",
            json!("192.0.2.10"),
            ["spec.interfaces[0].addresses[0]", "must be an address with prefix length"],
        ),
        (
            "VRFAttachment",
            "/gateways/0/interface",
            json!("eth9"),
            ["spec", "interface must be one of the interfaces"],
        ),
        ("VRFAttachment", "/gateways/0/address", json!("gw"), ["spec.gateways[0].address", "must be an"]),
        ("RouteImport", "/from/table", json!(255), ["spec.from.table", "FRR has no routes there"]),
        (
            "RouteImport",
            "/allowed/prefixes/0/prefix",
            json!("10.20.1.0/16"),
            ["spec.allowed.prefixes[0].prefix", "must have no host bits"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes/0/prefix",
            json!("nonsense"),
            ["spec.allowed.prefixes[0].prefix", "must be a prefix such as"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes/0/ge",
            json!(25),
            ["spec.allowed.prefixes[0]", "ge must not be greater than le"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes/0/ge",
            json!(8),
            ["spec.allowed.prefixes[0]", "ge must not be shorter than the prefix"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes/0",
            json!({"prefix": "10.20.0.0/16", "le": 8}),
            ["spec.allowed.prefixes[0]", "le must not be shorter than the prefix"],
        ),
        ("RouteImport", "/allowed/prefixes/0/le", json!(64), ["spec.allowed.prefixes[0]", "at most 32"]),
        (
            "RouteImport",
            "/allowed/mode",
            json!("All"),
            ["spec.allowed", "prefixes must be given with mode Filtered"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes",
            json!([]),
            ["spec.allowed", "prefixes must be given with mode Filtered"],
        ),
        (
            "RouteImport",
            "/allowed/prefixes/0",
            json!({"prefix": "0.0.0.0/0"}),
            ["spec", "holds the default route"],
        ),
        ("RouteImport", "/into/table", json!("Main"), ["spec.into", "one of the two"]),
        ("RouteImport", "/into", json!({"table": "main"}), ["spec.into", "table must be Main or a number"]),
        ("RouteImport", "/into", json!({"table": 255}), ["spec.into", "belong to the kernel"]),
        ("RouteImport", "/into", json!({"table": 5000}), ["spec", "into.table equals from.table"]),
        ("RouteImport", "/from/table", json!(10001), ["spec", "into.vrf.table equals from.table"]),
        ("RouteImport", "/into/vrf/name", json!("default"), ["spec.into.vrf.name", "'default' is reserved"]),
        ("RouteImport", "/maxRoutes", json!(0), ["spec.maxRoutes", "greater than or equal to 1"]),
        (
            "RouteImport",
            "/onFeedLoss",
            json!({"timeout": "soon"}),
            ["spec.onFeedLoss.timeout", "must be a duration such as"],
        ),
        (
            "TrafficPolicy",
            "/rules/0/match",
            json!({}),
            ["spec.rules[0].match", "at least one of destinations"],
        ),
        (
            "TrafficPolicy",
            "/rules/0/match/protocol",
            json!("ICMP"),
            ["spec.rules[0].match", "destinationPorts need protocol"],
        ),
        (
            "TrafficPolicy",
            "/rules/0/match/sources",
            json!(["2001:db8::/32"]),
            ["spec.rules[0].match", "no address family in common"],
        ),
        (
            "TrafficPolicy",
            "/rules/0/match/destinationPorts/0/to",
            json!(79),
            ["destinationPorts[0]", "from must not be greater than to"],
        ),
        ("TrafficPolicy", "/rules/0/name", json!("Web"), ["spec.rules[0].name", "lower-case letters"]),
        (
            "TrafficPolicy",
            "/rules/0/action/vrf/table",
            json!(253),
            ["action.vrf.table", "belong to the kernel"],
        ),
        ("TrafficPolicy", "/rules", json!([]), ["spec.rules", "at least 1 item"]),
        (
            "ReturnPath",
            "/interfaces/0/gateway/source",
            json!("Auto"),
            ["spec.interfaces[0].gateway", "ipv4 or ipv6 must be given with source Static"],
        ),
        (
            "ReturnPath",
            "/interfaces/0/name",
            json!("eth*"),
            ["spec.interfaces[0]", "needs an exact interface name"],
        ),
        (
            "ReturnPath",
            "/flowTable",
            json!({"tcpIdle": "0s"}),
            ["spec.flowTable.tcpIdle", "must be longer than 0s"],
        ),
        ("ReturnPath", "/interfaces", json!([]), ["spec.interfaces", "at least 1 item"]),
        ("DataplaneConfig", "/fpm", json!({"listen": "2620"}), ["spec.fpm.listen", "must be"]),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"routeProtocol": 186}),
            ["spec.ownership.routeProtocol", "belongs to zebra"],
        ),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"routeProtocol": 4}),
            ["spec.ownership.routeProtocol", "greater than or equal to 5"],
        ),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"tables": {"from": 20, "to": 10}}),
            ["spec.ownership.tables", "from must not be greater than to"],
        ),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"tables": {"from": 200, "to": 300}}),
            ["spec.ownership.tables", "253 to 255"],
        ),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"rulePriorities": {"from": 900, "to": 1189}}),
            ["spec.ownership.rulePriorities", "between l3mdev's rule"],
        ),
        (
            "DataplaneConfig",
            "/ownership",
            json!({"rulePriorities": {"from": 1100, "to": 1105}}),
            ["spec.ownership.rulePriorities", "at least 10 priorities"],
        ),
        (
            "DataplaneConfig",
            "/guardrails",
            json!({"protectedPrefixes": ["10.0.0.1/8"]}),
            ["spec.guardrails.protectedPrefixes[0]", "no host bits"],
        ),
    ]
}

/// A change of an object that is there: (kind, patch, what the server says).
fn refused_updates() -> Vec<(&'static str, Value, [&'static str; 2])> {
    vec![
        ("VRFAttachment", json!({"vrf": {"name": "blue"}}), ["spec.vrf.name", "is immutable"]),
        ("VRFAttachment", json!({"vrf": {"table": 10002}}), ["spec.vrf.table", "is immutable"]),
    ]
}

struct Server {
    client: Client,
}

impl Server {
    fn api(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("backtrail.dev", "v1alpha1", kind);
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
    }

    /// What the server makes of an object; nothing stays.
    async fn dry_run(&self, kind: &str, plural: &str, name: &str, spec: &Value) -> Result<Value, String> {
        let object = json!({
            "apiVersion": "backtrail.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        let object = serde_json::from_value(object).map_err(|error| error.to_string())?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let made = self.api(kind, plural).create(&params, &object).await;
        made.map(|object| object.data["spec"].clone()).map_err(|error| error.to_string())
    }
}

/// Sets the field at a JSON pointer; null removes it.
fn with(spec: &Value, pointer: &str, value: &Value) -> Value {
    let mut spec = spec.clone();
    let (parent, field) = pointer.rsplit_once('/').expect("a path");
    let parent = spec.pointer_mut(parent).expect("the parent is there");
    match (parent, value) {
        (Value::Array(items), value) => items[field.parse::<usize>().expect("an index")] = value.clone(),
        (Value::Object(fields), Value::Null) => drop(fields.remove(field)),
        (parent, value) => parent[field] = value.clone(),
    }
    spec
}

fn names(refusal: &str, words: [&str; 2]) -> Result<()> {
    ensure!(words.iter().all(|word| refusal.contains(word)), "{refusal:?} does not name {words:?}");
    Ok(())
}

async fn check_rules(server: &Server) -> Result<()> {
    let mut kinds = std::collections::BTreeMap::new();
    for (kind, plural, name, spec) in valid() {
        server
            .dry_run(kind, plural, name, &spec)
            .await
            .map_err(|error| anyhow::anyhow!("{kind}: {error}"))?;
        kinds.insert(kind, (plural, name, spec));
    }
    let mut failures = Vec::new();
    for (kind, pointer, value, words) in refused() {
        let (plural, name, spec) = &kinds[kind];
        let said = match server.dry_run(kind, plural, name, &with(spec, pointer, &value)).await {
            Ok(_) => Err(anyhow::anyhow!("it is taken")),
            Err(refusal) => names(&refusal, words),
        };
        failures.extend(said.err().map(|error| format!("{kind} {pointer} = {value}: {error}")));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    let other = server.dry_run("DataplaneConfig", "dataplaneconfigs", "other", &json!({})).await;
    names(
        &other.err().context("a second DataplaneConfig is taken")?,
        ["other", "the only DataplaneConfig is named default"],
    )
}

async fn check_updates(server: &Server) -> Result<()> {
    for (kind, plural, name, spec) in valid() {
        let object = json!({"apiVersion": "backtrail.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        server.api(kind, plural).create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    for (kind, spec, words) in refused_updates() {
        let (_, plural, name, _) = valid().into_iter().find(|it| it.0 == kind).context("kind")?;
        let patch = Patch::Merge(json!({"spec": spec}));
        let result = server.api(kind, plural).patch(name, &PatchParams::default(), &patch).await;
        names(&result.err().context("the change is taken")?.to_string(), words)?;
    }
    let mode = |mode: &str| Patch::Merge(json!({"spec": {"vrf": {"mode": mode}}}));
    let api = server.api("VRFAttachment", "vrfattachments");
    for allowed in ["Create", "Adopt"] {
        api.patch("red", &PatchParams::default(), &mode(allowed)).await?;
    }
    let back = api.patch("red", &PatchParams::default(), &mode("Create")).await;
    names(&back.err().context("Adopt to Create is taken")?.to_string(), ["spec.vrf", "from Adopt to Create"])
}

async fn check_defaults(server: &Server) -> Result<()> {
    let of = async |index: usize| -> Result<Value> {
        let (kind, plural, name, spec) = valid().swap_remove(index);
        server
            .dry_run(kind, plural, &format!("{name}{}", if index == 0 { "" } else { "2" }), &spec)
            .await
            .map_err(anyhow::Error::msg)
    };
    let (vrf, import, policy, path) = (of(1).await?, of(2).await?, of(3).await?, of(4).await?);
    let expected = [
        (&vrf, "/vrf/mode", json!("TableOnly")),
        (&vrf, "/isolation", json!("Strict")),
        (&vrf, "/interfaces/1/type", json!("Existing")),
        (&import, "/action", json!("Program")),
        (&import, "/defaultRoute", json!("Reject")),
        (&import, "/maxRoutes", json!(10_000)),
        (&import, "/onLimit", json!("RejectNew")),
        (&import, "/metric", json!(20)),
        (&policy, "/band", json!("Normal")),
        (&policy, "/rules/0/match/hostTraffic", json!(true)),
        (&policy, "/rules/0/action/ifUnavailable", json!("Drop")),
        (&path, "/mode", json!("TCRedirect")),
        (&path, "/interfaces/1/gateway/source", json!("Auto")),
        (&path, "/onPathDown", json!("FollowFIB")),
        (&path, "/rpFilter", json!("Auto")),
        (&path, "/flowTable/maxEntries", json!(262_144)),
    ];
    for (spec, pointer, value) in expected {
        ensure!(
            spec.pointer(pointer) == Some(&value),
            "{pointer} is {:?}, not {value}",
            spec.pointer(pointer)
        );
    }
    Ok(())
}

/// What a newcomer reads.
fn check_kubectl(server: &ApiServer) -> Result<()> {
    for (name, words) in [
        ("vrfattachment.spec.vrf.mode", "policy rules and a table, no VRF device"),
        ("ri.spec.allowed", "Prefixes that may come in"),
        ("tp.spec.rules.action.ifUnavailable", "Drop: unreachable"),
        ("rp.spec.interfaces.gateway.source", "the router that delivered the request"),
        ("dpc.spec.guardrails.defaultRoute", "Forbid beats every RouteImport"),
        ("nrs.status.conditions", "FPMConnected"),
    ] {
        let text = server.kubectl(&["explain", name])?.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(text.contains(words), "kubectl explain {name} does not say {words:?}: {text}");
    }
    for (kind, columns) in [
        ("vrfa", "NAME VRF TABLE MODE NODES READY CONFLICT AGE"),
        ("ri", "NAME FROM VRF ACTION MODE DEFAULT ACCEPTED PROGRAMMED READY AGE"),
        ("tp", "NAME BAND RULES READY NODES AGE"),
        ("rp", "NAME MODE NODES ATTACHED FLOWS STEERED READY AGE"),
        ("dpc", "NAME FPM DEFAULT-ROUTE MAX-ROUTES ACCEPTED AGE"),
    ] {
        let text = server.kubectl(&["get", kind])?;
        let first = text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(first == columns, "kubectl get {kind}: {first}");
    }
    let all = server.kubectl(&["get", "backtrail"])?;
    for kind in ["dataplaneconfig", "vrfattachment", "routeimport", "trafficpolicy", "returnpath"] {
        ensure!(
            all.contains(&format!("{kind}.backtrail.dev/")),
            "kubectl get backtrail lists no {kind}: {all}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn crds_on_a_real_api_server() -> Result<()> {
    let lab = Lab::new("crds")?;
    let node = lab.namespace("cp")?;
    node.run("ip link set lo up; ip addr add 192.0.2.1/32 dev lo")?;
    let Some(server) = ApiServer::start(&lab, &node, "192.0.2.1".parse()?, "crds_on_a_real_api_server")?
    else {
        return Ok(());
    };
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    for entry in std::fs::read_dir(&crds)? {
        let path = entry?.path();
        // Beside the CRDs lies what kustomize needs.
        if std::fs::read_to_string(&path)?.contains("kind: CustomResourceDefinition") {
            server.apply(&path)?;
        }
    }
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"])?;
    let kubeconfig = kube::config::Kubeconfig::read_from(server.admin())?;
    node.enter(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            let server = Server { client: Client::try_from(config)? };
            check_rules(&server).await?;
            check_defaults(&server).await?;
            check_updates(&server).await
        })
    })??;
    check_kubectl(&server)
}

//! The outcome of merging does not depend on the order in which manifests are read.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::super::{Loaded, Manifest, Object, Source};
use super::{BTreeMap, Path, build, load_text};

/// Names and values come from so few that objects meet, agree and disagree often.
fn spec() -> impl Strategy<Value = (&'static str, String)> {
    let vrf =
        (0..3_u32, 0..3_u32).prop_map(|(name, table)| format!("name: v{name}, table: {}", 10000 + table));
    let interface = prop_oneof![
        (0..2_u8).prop_map(|i| format!("{{name: eth{i}}}")),
        (0..2_u8, 1..3_u8, prop_oneof![Just(""), Just(", mtu: 1500"), Just(", mtu: 9000")]).prop_map(
            |(i, id, mtu)| format!("{{name: eth{i}, type: VLAN, vlan: {{parent: bond0, id: {id}{mtu}}}}}")
        ),
    ];
    let attachment = (vrf.clone(), interface, prop_oneof![Just("Strict"), Just("FallbackToMain")], 1..3_u8)
        .prop_map(|(vrf, interface, isolation, weight)| {
            let name = interface
                .split(['{', ':', ',', '}', ' '])
                .find(|part| part.starts_with("eth"))
                .unwrap_or("eth0")
                .to_owned();
            let gateway = format!("{{address: 192.0.2.1, interface: {name}, weight: {weight}}}");
            (
                "VRFAttachment",
                format!(
                    "vrf: {{{vrf}}}, interfaces: [{interface}], isolation: {isolation}, gateways: [{gateway}]"
                ),
            )
        });
    let import = (vrf.clone(), 1..3_u8, prop_oneof![Just("Single"), Just("Ecmp")], 0..2_u8, 1..4_u8).prop_map(
        |(vrf, source, mode, le, loss)| {
            let allowed = format!("{{prefixes: [{{prefix: 10.0.0.0/8, le: {}}}]}}", 8 + le);
            ("RouteImport", format!("from: {{table: 5000}}, into: {{vrf: {{{vrf}}}}}, allowed: {allowed}, preferredSource: 192.0.2.{source}, multipath: {{mode: {mode}}}, onFeedLoss: {{timeout: {loss}s}}, defaultRoute: Backup"))
        },
    );
    let policy = (vrf, 8..11_u8, prop_oneof![Just("Drop"), Just("Main")], any::<bool>()).prop_map(|(vrf, length, fallback, host)| {
        let nets = format!("[10.0.0.0/8, 10.0.0.0/{length}]").replace("[10.0.0.0/8, 10.0.0.0/8]", "[10.0.0.0/8]");
        ("TrafficPolicy", format!("rules: [{{name: r, match: {{destinations: {nets}, hostTraffic: {host}}}, action: {{vrf: {{{vrf}}}, ifUnavailable: {fallback}}}}}]"))
    });
    let path = (0..2_u8, prop_oneof![Just("Auto"), Just("FromRoute")], 0..3_u8, any::<bool>()).prop_map(|(interface, source, net, shadow)| {
        let mode = if shadow { "Shadow" } else { "TCRedirect" };
        ("ReturnPath", format!("interfaces: [{{name: eth{interface}, gateway: {{source: {source}}}}}], mode: {mode}, match: {{virtualIPs: [10.{net}.0.0/16], exceptSources: [10.0.0.0/{}]}}", 8 + net))
    });
    prop_oneof![attachment, import, policy, path]
}

fn load(specs: &[(&str, String)]) -> Loaded {
    let manifests = specs.iter().enumerate().map(|(i, (kind, spec))| {
        let text = format!(
            "{{kind: {kind}, apiVersion: backtrail.dev/v1alpha1, metadata: {{name: o{i}}}, spec: {{{spec}}}}}"
        );
        let object = Object::from_value(serde_saphyr::from_str(&text).unwrap()).unwrap();
        let source = Source { file: "t.yaml".into(), document: i + 1, line: 1 };
        Manifest { source, object, retained: false }
    });
    Loaded { manifests: manifests.collect(), ..Loaded::default() }
}

#[test]
fn generated_manifests_are_valid() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let texts = (0..8).map(|i| {
        let (kind, spec) = spec().new_tree(&mut runner).unwrap().current();
        format!("---\napiVersion: backtrail.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: o{i}}}\nspec: {{{spec}}}\n")
    });
    assert_eq!(load_text(Path::new("t.yaml"), &texts.collect::<String>()).errors, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn merging_is_independent_of_order(
        now in prop::collection::vec(spec(), 1..8).prop_map(|specs| load(&specs)),
        before in prop::collection::vec(spec(), 0..4).prop_map(|specs| load(&specs)),
        seed in any::<u64>(),
    ) {
        let labels = BTreeMap::new();
        let previous = build(&before, &labels, None);
        let mut shuffled = now.clone();
        let len = shuffled.manifests.len() as u64;
        for i in 0..shuffled.manifests.len() {
            shuffled.manifests.swap(i, (seed.wrapping_mul(i as u64 + 7) % len) as usize);
        }
        for previous in [None, Some(&previous)] {
            prop_assert_eq!(build(&now, &labels, previous), build(&shuffled, &labels, previous));
        }
    }

    #[test]
    fn merging_again_changes_nothing(now in prop::collection::vec(spec(), 1..8).prop_map(|specs| load(&specs))) {
        let labels = BTreeMap::new();
        let once = build(&now, &labels, None);
        prop_assert_eq!(build(&now, &labels, Some(&once)), once);
    }
}

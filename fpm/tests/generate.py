#!/usr/bin/env python3
"""Makes messages that no capture has: rare attributes, in any order, with padding that is not zero, and unknown ones.

`generate.py` writes `generated/NAME.bin` and, by what it has put in and by `golden.py` alike, `generated/NAME.jsonl`. The
last line of that says how many attributes have no place in the others. The same seed makes the same files.
"""
import os
import random
import socket
import struct

import golden

rng = random.Random(20261121)
chance = lambda part: rng.random() < part
unknown = 0


def pack4(address):
    return socket.inet_pton(socket.AF_INET, address)


def pack6(address):
    return socket.inet_pton(socket.AF_INET6, address)


def pack(address):
    return pack6(address) if ":" in address else pack4(address)


def address(six):
    return golden.ip(bytes(rng.randrange(256) for _ in range(16 if six else 4)))


def prefix(six):
    width = 128 if six else 32
    length = rng.randint(0, width)
    bits = rng.getrandbits(width) >> (width - length) << (width - length) if length else 0
    data = bits.to_bytes(width // 8, "big")
    return data, length, "%s/%d" % (golden.ip(data), length)


def number(bits=32):
    return rng.choice([1, rng.getrandbits(7) + 1, rng.getrandbits(bits - 1) + 1, (1 << bits) - 1])


def u32(value):
    return struct.pack("=I", value)


def attribute(kind, value, nested=False):
    """An attribute; its padding is whatever was in memory, as zebra leaves it."""
    head = struct.pack("=HH", 4 + len(value), kind | (0x8000 if nested else 0))
    return head + value + bytes(rng.randrange(256) for _ in range(-len(value) % 4))


def strange(kinds):
    """An attribute of a type that the decoder has no place for."""
    global unknown
    unknown += 1
    return attribute(rng.choice(kinds), bytes(rng.randrange(256) for _ in range(rng.randrange(12))))


def shuffled(attributes):
    rng.shuffle(attributes)
    return b"".join(attributes)


def label_stack(count):
    labels = [rng.randrange(16, 1 << 20) for _ in range(count)]
    entries = [label << 12 | (at == count - 1) << 8 for at, label in enumerate(labels)]
    return labels, struct.pack("!%dI" % count, *entries)


def encap_mpls():
    labels, stack = label_stack(rng.randint(1, 6))
    return 1, [attribute(1, stack)], {"type": "mpls", "labels": labels}


def encap_ip(six):
    line, parts = {"type": "ip6" if six else "ip"}, []
    if chance(.8):
        line["id"] = rng.getrandbits(24)
        parts.append(attribute(1, struct.pack("!Q", line["id"])))
    for name, kind in (("dst", 2), ("src", 3)):
        if chance(.7):
            line[name] = address(six)
            parts.append(attribute(kind, pack(line[name])))
    if chance(.2):
        parts.append(strange([4, 5, 6]))
    return (4 if six else 2), parts, line


def encap_seg6():
    segments = [address(True) for _ in range(rng.randint(1, 7))]
    mode, name = rng.choice(sorted(golden.SEG6_MODES.items()))
    last = len(segments) - 1
    header = struct.pack("=iBBBBBBH", mode, 0, 2 * len(segments), 4, last, last, 0, 0)
    parts = [attribute(1, header + b"".join(pack6(segment) for segment in reversed(segments)))]
    line = {"type": "seg6", "mode": name, "segments": segments}
    if chance(.3):
        line["src"] = address(True)
        parts.append(attribute(2, pack6(line["src"])))
    return 5, parts, line


def encap_seg6local():
    action, name = rng.choice(sorted(golden.SEG6_ACTIONS.items()))
    line, parts = {"type": "seg6local", "action": name}, [attribute(1, u32(action))]
    for field, kind, make in (("table", 3, number), ("vrftable", 9, number), ("iif", 6, number), ("oif", 7, number)):
        if chance(.4):
            line[field] = make()
            parts.append(attribute(kind, u32(line[field])))
    for field, kind, six in (("nh4", 4, False), ("nh6", 5, True)):
        if chance(.4):
            line[field] = address(six)
            parts.append(attribute(kind, pack(line[field])))
    if chance(.5):
        bits = [bit for bit in golden.FLAVORS if chance(.5)]
        flavors = {"operations": [golden.FLAVORS[bit] for bit in bits]}
        nested = [attribute(1, u32(sum(1 << bit for bit in bits)))]
        for field, kind in (("lblen", 2), ("nflen", 3)):
            if chance(.5):
                flavors[field] = rng.randrange(129)
                nested.append(attribute(kind, bytes([flavors[field]])))
        line["flavors"] = flavors
        parts.append(attribute(11, shuffled(nested), nested=True))
    if chance(.2):
        parts.append(strange([2, 8, 10, 12]))
    return 7, parts, line


def encap_vxlan():
    vni = rng.getrandbits(24)
    return 100, [attribute(0, u32(vni))], {"type": "vxlan", "vni": vni}


def encap_unknown():
    global unknown
    unknown += 1
    kind = rng.choice([3, 6, 8, 9, 10, 4242])
    content = bytes(rng.randrange(256) for _ in range(rng.randrange(24)))
    return kind, [content], {"type": "raw", "encap_type": kind, "hex": content.hex()}


def encapsulation(type_kind, kind):
    make = rng.choice([encap_mpls, lambda: encap_ip(False), lambda: encap_ip(True), encap_seg6, encap_seg6local,
                       encap_vxlan, encap_unknown])
    number, parts, line = make()
    return [attribute(type_kind, struct.pack("=H", number)), attribute(kind, shuffled(parts), chance(.8))], line


def hop(six, kinds, with_encap=.4, cross=True):
    """Attributes of a nexthop and its line; `kinds` are gateway, oif, encap type, encap, via."""
    gateway, oif, encap_type, encap, via = kinds
    parts, line = [], {}
    if chance(.8):
        other = cross and chance(.25)
        line["via"] = address(six != other)
        if other and via:
            family = socket.AF_INET6 if six != other else socket.AF_INET
            parts.append(attribute(via, struct.pack("=H", family) + pack(line["via"])))
        else:
            parts.append(attribute(gateway, pack(line["via"])))
    if oif and (not parts or chance(.9)):
        line["dev"] = number(31)
        parts.append(attribute(oif, u32(line["dev"])))
    if chance(with_encap):
        more, line["encap"] = encapsulation(encap_type, encap)
        parts += more
    return parts, line


def rtnexthop(six, lsp=False):
    parts, line = hop(six, (5, None, 21, 22, 18), .2, cross=not lsp)
    if lsp:
        line["labels"], stack = label_stack(rng.randint(1, 3)) if chance(.7) else ([], b"")
        parts += [attribute(19, stack)] if stack else []
    if chance(.15):
        parts.append(strange([11, 26, 40]))
    flags, more, index = rng.choice([0, 4]), rng.randrange(256), number(31)
    line.update(dev=index, weight=more + 1, **({"onlink": True} if flags else {}))
    body = shuffled(parts)
    return struct.pack("=HBBi", 8 + len(body), flags, more, index) + body, line


def several(six, lsp=False):
    hops = [rtnexthop(six, lsp) for _ in range(rng.choice([2, 3, 17]))]
    return attribute(9, b"".join(entry for entry, _ in hops), nested=True), [line for _, line in hops]


def table_of(parts, line):
    line["table"] = rng.choice([254, 100, 255, 256, 5000, 70000, (1 << 32) - 1])
    if line["table"] < 256 and chance(.8):
        return line["table"]
    parts.append(attribute(15, u32(line["table"])))
    return rng.choice([0, 252])


def route():
    six, add = chance(.5), chance(.85)
    data, length, dst = prefix(six)
    protocol = rng.choice([2, 11, 42, 186, 187, 188, 189, 190, 196, 198, 255])
    line = {"op": "add" if add else "del", "kind": "route", "family": "ipv6" if six else "ipv4", "dst": dst,
            "protocol": protocol}
    parts, src_len, flags, kind = [attribute(1, data)], 0, 0, 1
    if six and chance(.3):
        data, src_len, src = prefix(True)
        if src_len:
            line["src"] = src
            parts.append(attribute(2, data))
    if chance(.7):
        line["metric"] = rng.choice([20, 0, number()])
        parts.append(attribute(6, u32(line["metric"])))
    table = table_of(parts, line)
    if chance(.2):
        parts.append(strange([10, 13, 25, 26, 27, 28, 29, 31, 900]))
    if add:
        kind, line["type"] = rng.choice([(1, "unicast")] * 7 + [(6, "blackhole"), (7, "unreachable"), (8, "prohibit")])
        if chance(.3):
            line["mtu"] = number()
            nested = [attribute(2, u32(line["mtu"]))] + ([strange([3, 7, 12])] if chance(.3) else [])
            parts.append(attribute(8, shuffled(nested), nested=True))
        if chance(.3):
            line["prefsrc"] = address(six)
            parts.append(attribute(7, pack(line["prefsrc"])))
        if chance(.3):
            line["realm"] = number(8)
            parts.append(attribute(11, u32(line["realm"])))
        if kind == 1:
            form = rng.choice(["id", "one", "one", "several"])
            if form == "id":
                line["nhid"] = number()
                parts.append(attribute(30, u32(line["nhid"])))
            elif form == "one":
                more, one = hop(six, (5, 4, 21, 22, 18))
                if chance(.3):
                    flags, one["onlink"] = 4, True
                parts += more
                line["nexthops"] = [one]
            else:
                more, line["nexthops"] = several(six)
                parts.append(more)
    head = struct.pack("=BBBBBBBBI", 10 if six else 2, length, src_len, 0, table, protocol, 0, kind if add else 0, flags)
    return (24 if add else 25), head + shuffled(parts), line


def lsp():
    add = chance(.8)
    (label,), entry = label_stack(1)
    protocol = rng.choice([11, 186, 193])
    line = {"op": "add" if add else "del", "kind": "lsp", "family": "mpls", "dst": label, "protocol": protocol}
    parts = [attribute(1, entry)]
    table = table_of(parts, line)
    if add:
        line["type"] = "unicast"
        if chance(.5):
            more, one = hop(False, (18, 4, 21, 22, None), .1, cross=False)
            # A gateway of a label-switched path is a struct rtvia.
            more = [part for part in more if struct.unpack_from("=HH", part)[1] != 18]
            if "via" in one:
                one["via"] = address(chance(.5))
                family = 10 if ":" in one["via"] else 2
                more.append(attribute(18, struct.pack("=H", family) + pack(one["via"])))
            one["labels"], stack = label_stack(rng.randint(1, 3)) if chance(.7) else ([], b"")
            more += [attribute(19, stack)] if stack else []
            parts += more
            line["nexthops"] = [one]
        else:
            more, line["nexthops"] = several(False, lsp=True)
            parts.append(more)
    head = struct.pack("=BBBBBBBBI", 28, 20, 0, 0, table, protocol, 0, 1 if add else 0, 0)
    return (24 if add else 25), head + shuffled(parts), line


def nexthop():
    add, identity, protocol = chance(.85), number(), rng.choice([0, 11, 186, 196])
    line = {"op": "add" if add else "del", "kind": "nexthop", "id": identity, "protocol": protocol}
    parts, family, flags = [attribute(1, u32(identity))], 0, 0
    if add and chance(.4):
        members = [(number(), rng.choice([1, 255, 256, 257, 65536])) for _ in range(rng.choice([1, 2, 3, 16, 64]))]
        line["group"] = [{"id": member, "weight": weight} for member, weight in members]
        entries = [struct.pack("=IBBH", member, weight - 1 & 255, weight - 1 >> 8, 0) for member, weight in members]
        parts.append(attribute(2, b"".join(entries)))
        if chance(.5):
            timers = {"buckets": number(16), "idle_timer": number(), "unbalanced_timer": number()}
            for field in [field for field in timers if chance(.2)]:
                del timers[field]
            formats = {"buckets": (1, "=H"), "idle_timer": (2, "=I"), "unbalanced_timer": (3, "=I")}
            nested = [attribute(formats[field][0], struct.pack(formats[field][1], value)) for field, value in timers.items()]
            line["resilient"] = timers
            parts += [attribute(12, shuffled(nested), nested=True), attribute(3, struct.pack("=H", 1))]
    elif add:
        family = rng.choice([2, 10])
        line["family"] = golden.FAMILIES[family]
        if chance(.2):
            line["type"] = "blackhole"
            parts.append(attribute(4, b""))
        else:
            more, one = hop(family == 10, (6, 5, 7, 8, None), cross=False)
            if chance(.3):
                flags, one["onlink"] = 4, True
            parts += more
            line["nexthops"] = [one]
    if chance(.15):
        parts.append(strange([9, 10, 11, 14, 40]))
    head = struct.pack("=BBBBI", family, 0, protocol, 0, flags)
    return (104 if add else 105), head + shuffled(parts), line


def neighbor():
    add, family = chance(.7), rng.choice([7, 7, 7, 2, 10])
    line = {"op": "add" if add else "del", "kind": "neighbor", "family": golden.FAMILIES[family]}
    parts, index = [], rng.choice([0, number(31)])
    if index:
        line["dev"] = index
    mac = bytes(rng.randrange(256) for _ in range(rng.choice([6, 6, 20])))
    choices = [
        ("lladdr", 2, mac.hex(":"), mac), ("dst", 1, *(lambda text: (text, pack(text)))(address(chance(.5)))),
        *(("vlan", 5, vlan, struct.pack("=H", vlan)) for vlan in [rng.randint(1, 4094)]),
        *((field, kind, value, u32(value)) for field, kind in (("vni", 7), ("master", 9), ("nhid", 13)) for value in [number(31)]),
        ("protocol", 12, 186, bytes([186])),
    ]
    for field, kind, value, data in choices:
        if chance(.5):
            line[field] = value
            parts.append(attribute(kind, data))
    if chance(.2):
        parts.append(strange([3, 4, 6, 14, 15, 30]))
    head = struct.pack("=BxxxiHBB", family, index, rng.choice([2, 64, 128]), rng.choice([2, 16, 18]), 0)
    return (28 if add else 29), head + shuffled(parts), line


def raw():
    kind, body = rng.choice([16, 20, 21, 32, 72, 200, 3]), bytes(rng.randrange(256) for _ in range(4 * rng.randrange(1, 9)))
    line = {"kind": "raw", "nlmsg_type": kind, "hex": body.hex()}
    if kind >= 16 and kind % 4 < 2:
        line["op"] = "add" if kind % 4 == 0 else "del"
    return kind, body, line


def message(kind, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 0x505, 0, 0xC303E5D7) + body + b"\0" * (-len(body) % 4)


def netlink(count):
    makers = [route] * 8 + [nexthop] * 4 + [neighbor] * 2 + [lsp] * 3 + [raw]
    stream, lines = b"", []
    while len(lines) < count:
        payload = b""
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            kind, body, line = rng.choice(makers)()
            payload += message(kind, body)
            lines.append({"encoding": "netlink", **line})
        stream += struct.pack("!BBH", 1, 1, 4 + len(payload)) + payload
    return stream, lines


def varint(value):
    data = b""
    while True:
        low, value = value & 127, value >> 7
        data += bytes([low | (128 if value else 0)])
        if not value:
            return data


def number_field(tag, value):
    return varint(tag << 3) + varint(value)


def bytes_field(tag, value):
    return varint(tag << 3 | 2) + varint(len(value)) + value


def proto_address(text):
    if ":" in text:
        return bytes_field(2, bytes_field(1, pack6(text)))
    return bytes_field(1, varint(1 << 3 | 5) + struct.pack("<I", *struct.unpack("!I", pack4(text))))


def proto_nexthop(six):
    line, data = {}, b""
    if chance(.9):
        line["dev"] = number(31)
        data += bytes_field(2, number_field(1, line["dev"]))
    if not line or chance(.7):
        line["via"] = address(six)
        data += bytes_field(3, proto_address(line["via"]))
    return data, line


def proto_route():
    six, add, vrf = chance(.5), chance(.8), rng.choice([0, number(31)])
    data, length, dst = prefix(six)
    key = bytes_field(1, number_field(1, length) + bytes_field(2, data[:(length + 7) // 8]))
    line = {"op": "add" if add else "del", "kind": "route", "vrf": vrf, "family": "ipv6" if six else "ipv4", "dst": dst}
    body = number_field(1, vrf) + number_field(2, 2 if six else 1) + number_field(3, 1) + bytes_field(4, key)
    if add:
        kind, line["type"] = rng.choice([(1, "unicast")] * 3 + [(2, "unreachable"), (3, "blackhole")])
        line["protocol"], line["metric"] = rng.randint(1, 10), rng.choice([0, 20, number()])
        signed = line["metric"] if line["metric"] < 1 << 31 else line["metric"] + (1 << 64) - (1 << 32)
        body += number_field(5, kind) + number_field(6, line["protocol"]) + number_field(8, signed)
        if kind == 1:
            hops = [proto_nexthop(six) for _ in range(rng.choice([0, 1, 2, 5]))]
            line["nexthops"] = [dict(hop) for _, hop in hops]
            body += b"".join(bytes_field(9, data) for data, _ in hops)
            if chance(.3):
                wrap = {"type": "seg6", "mode": "encap", "segments": [address(True)]}
                if chance(.5):
                    wrap["src"] = address(True)
                    body += bytes_field(10, bytes_field(1, pack6(wrap["src"])))
                body += bytes_field(11, bytes_field(1, pack6(wrap["segments"][0])))
                for hop in line["nexthops"]:
                    hop["encap"] = wrap
    return number_field(1, 1 if add else 2) + bytes_field(2 if add else 3, body), line


def proto_local_sid():
    add, sid = chance(.8), address(True)
    line = {"op": "add" if add else "del", "kind": "route", "vrf": 0, "family": "ipv6", "dst": sid + "/128"}
    tag, (action, flavors, holds) = rng.choice(sorted(golden.BEHAVIORS.items()))
    encap, hop, inner, body = {"type": "seg6local", "action": action}, {}, b"", bytes_field(1, bytes_field(1, pack6(sid)))
    if flavors:
        encap["flavors"] = {"operations": flavors}
    if chance(.5):
        block, node, function = rng.randrange(64), rng.randrange(64), rng.randrange(64)
        body += bytes_field(2, number_field(1, block) + number_field(2, node) + number_field(3, function))
        if flavors:
            encap["flavors"].update(lblen=block, nflen=node + function)
    if holds == "vrf":
        encap["vrf"] = number(31)
        inner = number_field(1, encap["vrf"])
    elif holds == "nexthop":
        data, to = proto_nexthop(action != "End.DX4")
        inner = bytes_field(1, data)
        if "dev" in to:
            encap["oif"] = hop["dev"] = to["dev"]
        if "via" in to:
            encap["nh6" if ":" in to["via"] else "nh4"] = to["via"]
    body += bytes_field(tag, inner)
    if add:
        line.update(type="unicast", nexthops=[{**hop, "encap": encap}])
    return number_field(1, 3 if add else 4) + bytes_field(4, body), line


def proto_raw():
    payload = number_field(1, rng.choice([0, 9])) + bytes_field(77, b"later")
    return payload, {"kind": "raw", "hex": payload.hex()}


def protobuf(count):
    stream, lines = b"", []
    for _ in range(count):
        payload, line = rng.choice([proto_route] * 5 + [proto_local_sid] * 3 + [proto_raw])()
        stream += struct.pack("!BBH", 1, 2, 4 + len(payload)) + payload
        lines.append({"encoding": "protobuf", **line})
    return stream, lines


def main():
    global unknown
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "generated")
    os.makedirs(folder, exist_ok=True)
    for name, make, count in (("netlink", netlink, 900), ("protobuf", protobuf, 300)):
        unknown = 0
        stream, lines = make(count)
        golden.UNKNOWN.clear()
        for put_in, read in zip(lines, golden.lines(stream), strict=True):
            assert golden.text(put_in) == golden.text(read), (put_in, read)
        assert len(golden.UNKNOWN) == unknown, (len(golden.UNKNOWN), unknown)
        with open(os.path.join(folder, name + ".bin"), "wb") as out:
            out.write(stream)
        with open(os.path.join(folder, name + ".jsonl"), "w") as out:
            out.writelines(golden.text(line) + "\n" for line in lines)
            out.write(golden.text({"unknown_attributes": unknown}) + "\n")


main()

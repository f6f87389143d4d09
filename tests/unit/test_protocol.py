"""The wire: golden bytes, the msgpack package as second encoder and decoder, round trips, payload frames."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given, strategies as st

from sparrowmq import limits
from sparrowmq.errors import ProtocolError, TooLarge, UsageError
from sparrowmq.protocol import codec, messages as m
from tests.support.messages import KINDS, SAMPLES, blobs, extends, messages, messages_of, name_of, pack, unpack, visible

# One literal a message: a change of any of these is a new version of the protocol.
GOLDEN = {
    "Hello": (
        "91dc00100101a5302e312e30a6776f726b6572a8776f726b65722d3105a4332e3131a3626f784d049194b430316a7a303030"
        "303030303030303030303030310001029194b430316a7a303030303030303030303030303030310092030492010291a56a6f"
        "622d6102b43566306536316433613262346336393738383130b43566306536316433613262346336393738383130"
    ),
    "Welcome": "919502ab7363686564756c65722d3106a5302e312e3091a56a6f622d61",
    "Refused": "919303a776657273696f6ea775706772616465",
    "Submit": (
        "919a04b430316a7a30303030303030303030303030303031019e01a373756dac6c6174652d62696e64696e67cb3ff8000000"
        "000000cb000000000000000003a002cb3fe000000000000091aa56616c75654572726f72cb3fee666666666666cb3ff80000"
        "00000000c3c30292c40101c40102c4036d3a66920005920001c3"
    ),
    "Accepted": "919405b430316a7a30303030303030303030303030303031010a",
    "Rejected": "919606b430316a7a3030303030303030303030303030303101a462757379a466756c6ccb3fe0000000000000",
    "Probe": "919607b430316a7a30303030303030303030303030303031010203c3",
    "Load": "919708b430316a7a303030303030303030303030303030310102080404",
    "Request": "919609cd012cb430316a7a30303030303030303030303030303031010201",
    "Task": (
        "919c0acd012cb430316a7a30303030303030303030303030303031019e01a373756dac6c6174652d62696e64696e67cb3ff8"
        "000000000000cb000000000000000003a002cb3fe000000000000091aa56616c75654572726f72cb3fee666666666666cb3f"
        "f8000000000000c3c39105910291c40102c4036d3a660102c3"
    ),
    "NoOp": "91930bcd012c02",
    "Cancel": "91940cb430316a7a303030303030303030303030303030310102",
    "Recall": "91950d09b430316a7a3030303030303030303030303030303101920005",
    "Returned": "91970e09b430316a7a303030303030303030303030303030310191059102a5647261696e",
    "Result": (
        "91990fce00011170b430316a7a3030303030303030303030303030303101920005920102c40200019278ce0001117092c401c0c4026e6f"
    ),
    "ResultAck": "919210ce00011170",
    "Outcome": "9197110cb430316a7a3030303030303030303030303030303101920005c402000492c401c0c400",
    "OutcomeAck": "9192120c",
    "Stale": "919313b430316a7a3030303030303030303030303030303102",
    "Kill": "919514b430316a7a30303030303030303030303030303031019105cb3ff8000000000000",
    "Query": "91951504a57461736b73b430316a7a303030303030303030303030303030319105",
    "Subscribe": "91941604a773756d6d617279cb3fd0000000000000",
    "Status": (
        "919b1704ab7363686564756c65722d3191dc0019b430316a7a30303030303030303030303030303031a373756da562617463"
        "68a4646f6e6503000095020100000001a8636c69656e742d31cb41d65a0bc0000000cb3fe0000000000000cb3ff000000000"
        "0000cb4000000000000000cb400800000000000006010200a17801020304c3919ba8776f726b65722d31a3626f784d04a561"
        "6c697665020109cb3fd0000000000000a5302e312e30a4332e313181a46a6f6273019198b430316a7a303030303030303030"
        "3030303030303105a66661696c656402a8776f726b65722d31cd05dc9195cb41d65a0bc0000000a86c61756e6368656402a8"
        "776f726b65722d31a178c4026e6fa3626f784ea5302e312e30cb41d65a0bc0000000"
    ),
    "Ping": "919218cf0020000000000000",
    "Pong": "91921900",
    "Goodbye": "91921aa8647261696e696e67",
    "Output": "91981bb430316a7a3030303030303030303030303030303101050201c40668656c6c6f0a03",
    "Follow": "91941c07b430316a7a30303030303030303030303030303031c3",
    "Followed": "91941d07b430316a7a30303030303030303030303030303031a4646f6e65",
    "Drain": "91941e08a8776f726b65722d31cb4024000000000000",
    "Verdict": (
        "91931fcf0000018bcfe568009195a8776f726b65722d3103a464656164cd01aeb26e6f206265617420666f7220343330206d73"
    ),
    "Hints": "919420cf0000018bcfe5680092a8776f726b65722d31a8776f726b65722d329200cd05dc",
    "Claim": "919321b430316a7a3030303030303030303030303030303102",
    "Claimed": "919522b430316a7a3030303030303030303030303030303102920506920102",
    "Died": "919523b430316a7a303030303030303030303030303030310191059102",
    "Proof": (
        "919424a6776f726b6572a8776f726b65722d31c4200101010101010101010101010101010101010101010101010101010101010101"
    ),
}
# What peers of version 0.1 send: fields were added to these since.
OLDER = {
    "Hello": (
        "919e0101a5302e312e30a6776f726b6572a8776f726b65722d3105a4332e3131a3626f784d049194b430316a7a3030303030"
        "30303030303030303030310001029194b430316a7a303030303030303030303030303030310092030492010291a56a6f622d"
        "6100"
    ),
    "Submit": (
        "919904b430316a7a30303030303030303030303030303031019701a373756dac6c6174652d62696e64696e67cb3ff8000000"
        "000000cb000000000000000003a00292c40101c40102c4036d3a66920005920001"
    ),
    "Task": (
        "919b0acd012cb430316a7a30303030303030303030303030303031019701a373756dac6c6174652d62696e64696e67cb3ff8"
        "000000000000cb000000000000000003a09105910291c40102c4036d3a660102"
    ),
    "Kill": "919414b430316a7a30303030303030303030303030303031019105",
    "Query": "91941504a36a6f62a430316a7a",
    "Status": (
        "91961704ab7363686564756c65722d3191dc0014b430316a7a30303030303030303030303030303031a373756da562617463"
        "68a4646f6e6503000095020100000001a8636c69656e742d31cb41d65a0bc0000000cb3fe0000000000000cb3ff000000000"
        "0000cb4000000000000000cb400800000000000006010200a178919ba8776f726b65722d31a3626f784d04a5616c69766502"
        "0109cb3fd0000000000000a5302e312e30a4332e313181a46a6f627301"
    ),
}


def encode(batch: list[m.AnyMessage]) -> list[list[bytes]]:
    return [[bytes(frame) for frame in frames] for frames in codec.Encoder().encode(batch)]  # type: ignore[call-overload]


def decode(frames: list[bytes]) -> list[m.AnyMessage]:
    return codec.decode(frames[0], blobs(frames))


def test_every_message_has_a_sample_and_golden_bytes() -> None:
    assert tuple(type(sample) for sample in SAMPLES) == KINDS
    assert list(GOLDEN) == [name_of(kind) for kind in KINDS]
    assert [kind.__struct_config__.tag for kind in KINDS] == list(range(1, 37))


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_golden_bytes(sample: m.AnyMessage) -> None:
    golden = bytes.fromhex(GOLDEN[name_of(sample)])
    assert encode([sample]) == [[golden]]
    assert decode([golden]) == [sample]


@pytest.mark.parametrize("name", OLDER)
def test_older_peers_are_understood(name: str) -> None:
    older = bytes.fromhex(OLDER[name])
    [message] = decode([older])
    assert type(message).__name__ == name
    assert extends(unpack(encode([message])[0]), unpack([older]))


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@given(data=st.data())
def test_bytes_are_those_of_the_msgpack_package(kind: type[m.AnyMessage], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    assert encode([message]) == [pack([message])]


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@given(data=st.data())
def test_messages_of_the_msgpack_package_are_understood(kind: type[m.AnyMessage], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    assert visible(decode(pack([message]))) == visible([message])


def test_the_msgpack_package_reads_tag_and_fields() -> None:
    probe, result = m.Probe("j", 1, 2, 3), m.Result(4, "j", 1, [0], [1], b"\x01", [9], [b"p"])
    assert unpack(encode([probe, result])[0]) == [
        [7, "j", 1, 2, 3, False],
        [15, 4, "j", 1, [0], [1], b"\x01", [9], [b"p"]],
    ]


@given(batch=st.lists(messages(), min_size=1, max_size=5))
def test_batches_round_trip(batch: list[m.AnyMessage]) -> None:
    [frames] = encode(batch)
    assert visible(decode(frames)) == visible(batch)


@given(message=messages())
def test_body_may_be_a_memoryview(message: m.AnyMessage) -> None:
    [frames] = encode([message])
    assert visible(codec.decode(memoryview(frames[0]), blobs(frames))) == visible([message])


@given(message=messages())
def test_encoding_leaves_the_message_as_it_was(message: m.AnyMessage) -> None:
    before = visible(message)
    encoder = codec.Encoder()
    first = encoder.encode([message])
    assert encoder.encode([message]) == first
    assert visible(message) == before


# Other versions of this side


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_fields_of_the_future_are_ignored(sample: m.AnyMessage) -> None:
    [fields] = unpack(pack([sample]))
    newer = msgpack.packb([[*fields, {"new": [1, None, 2.5]}, b"more"]])
    assert decode([newer]) == [sample]


def test_optional_fields_may_be_left_out() -> None:
    assert decode([msgpack.packb([[1, 1, "0", "client", "c", 7]])]) == [m.Hello(1, "0", "client", "c", 7)]
    assert decode([msgpack.packb([[20, "j", 0]])]) == [m.Kill("j", 0)]
    assert decode([msgpack.packb([[4, "j", 0, [], 1, [b""]]])]) == [m.Submit("j", 0, m.JobSpec(), 1, [b""])]


def test_a_hello_of_another_version_that_decodes_is_left_to_the_machine() -> None:
    [hello] = decode([msgpack.packb([[1, 2, "9.1", "worker", "w", 1, "more"]])])
    assert isinstance(hello, m.Hello)
    assert (hello.protocol, hello.package) == (2, "9.1")


@pytest.mark.parametrize("rest", [[], [{"all": "different"}], ["worker", b"w", -1, None]])
def test_a_hello_of_another_version_that_does_not_decode_is_named(rest: list[object]) -> None:
    unknown = [27, "a message of the other version"]
    with pytest.raises(ProtocolError) as raised:
        decode([msgpack.packb([[1, 2, "9.1", *rest], unknown])])
    assert raised.value.code == "version"
    assert str(raised.value) == "the peer (sparrowmq 9.1) speaks protocol 2, here 1: upgrade this side"


def test_version_error_says_who_is_behind() -> None:
    assert "upgrade this side" in str(codec.version_error(m.PROTOCOL + 1, "9"))
    assert "upgrade the peer" in str(codec.version_error(m.PROTOCOL - 1, "0"))
    with pytest.raises(ProtocolError, match=r"the peer \(sparrowmq \?\) speaks protocol 7"):
        decode([msgpack.packb([[1, 7]])])


# Payload frames


def blob(data: bytes) -> m.Blob:
    return m.Blob(data, len(data))


def test_large_payloads_travel_beside_the_body_uncopied() -> None:
    large = [bytes([n]) * 50 for n in range(3)]
    outcome = m.Outcome(1, "j", 0, [0, 1], b"\0\0", [blob(large[0]), b"small"])
    submit = m.Submit("j", 0, m.JobSpec(), 1, [blob(large[1])], blob(large[2]))
    [[body, *frames]] = codec.Encoder().encode([outcome, submit])
    assert all(frame is data for frame, data in zip(frames, large, strict=True))
    assert unpack([body])[0][-1] == [0, b"small"]
    assert unpack([body])[1][5:7] == [[1], 2]
    received = [m.Blob(frame, len(frame)) for frame in large]
    got_outcome, got_submit = codec.decode(body, received)
    assert isinstance(got_outcome, m.Outcome)
    assert isinstance(got_submit, m.Submit)
    assert [got_outcome.payloads[0], got_submit.payloads[0], got_submit.function] == received


CARRIERS = {
    "Submit payload": lambda reference: [4, "j", 0, [], 1, [reference]],
    "Submit function": lambda reference: [4, "j", 0, [], 1, [b""], reference],
    "Task payload": lambda reference: [10, 1, "j", 0, [], [0], [1], [reference]],
    "Task function": lambda reference: [10, 1, "j", 0, [], [0], [1], [b""], reference],
    "Result payload": lambda reference: [15, 1, "j", 0, [0], [1], b"\0", [5], [reference]],
    "Outcome payload": lambda reference: [17, 1, "j", 0, [0], b"\0", [reference]],
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_references_to_frames(carrier: str) -> None:
    def frames(reference: object, n: int, times: int = 1) -> list[bytes]:
        return [msgpack.packb([CARRIERS[carrier](reference)] * times), *[b"data"] * n]

    assert len(decode(frames(0, 1))) == 1
    wrong = {
        "no frame at all": frames(0, 0),
        "beyond the frames": frames(1, 1),
        "named twice": frames(0, 1, times=2),
        "never named": frames(0, 2),
        "never named, inline": frames(b"", 1),
        "negative": frames(-1, 1),
        "a boolean": frames(False, 1),
        "a float": frames(0.0, 1),
        "a text": frames("0", 1),
        "nothing": frames(None, 1),
    }
    for what, bad in wrong.items():
        with pytest.raises(ProtocolError) as raised:
            decode(bad)
        assert raised.value.code == "malformed", what


def test_frames_beside_messages_that_carry_none_are_refused() -> None:
    with pytest.raises(ProtocolError, match="1 frames that no message names"):
        decode([msgpack.packb([[24, 1]]), b"data"])


def test_more_large_payloads_than_frames_are_copied_into_the_body() -> None:
    payloads: list[m.Payload] = [blob(bytes([n % 256]) * 20) for n in range(limits.FRAMES_MAX + 500)]
    submit = m.Submit("j", 0, m.JobSpec(), len(payloads), payloads, blob(b"function"))
    [frames] = encode([submit])
    assert len(frames) == limits.FRAMES_MAX
    [got] = decode(frames)
    assert isinstance(got, m.Submit)
    assert [visible(p) if isinstance(p, m.Blob) else ("blob", p) for p in got.payloads] == visible(payloads)
    assert got.function == b"function"


def test_a_batch_too_long_is_split_in_order() -> None:
    batch: list[m.AnyMessage] = [m.Ping(n) for n in range(2 * limits.MESSAGES_MAX + 1)]
    parts = encode(batch)
    assert len(parts) > 2
    assert list(itertools.chain.from_iterable(decode(part) for part in parts)) == batch


def test_a_batch_too_large_for_a_frame_is_split() -> None:
    third = bytes(limits.FRAME_BYTES_MAX // 3 + 1)
    batch: list[m.AnyMessage] = [m.Outcome(n, "j", 0, [0], b"\0", [third]) for n in range(3)]
    parts = encode(batch)
    assert [len(decode(part)) for part in parts] == [1, 2]


# What the sender is told


def test_sender_is_told_of_a_message_too_large() -> None:
    outcome = m.Outcome(1, "j", 0, [0], b"\0", [bytes(limits.FRAME_BYTES_MAX)])
    with pytest.raises(TooLarge, match=r"an? outcome message of 67,1\d\d,\d{3} bytes exceeds the limit of 67,112,960"):
        codec.Encoder().encode([m.Ping(1), outcome])


def test_sender_is_told_of_a_payload_too_large() -> None:
    huge = m.Blob(b"", limits.FRAME_BYTES_MAX + 1)
    with pytest.raises(TooLarge, match="a payload of 67,112,961 bytes exceeds the limit of 67,112,960") as raised:
        codec.Encoder().encode([m.Outcome(1, "j", 0, [0], b"\0", [huge])])
    assert "by reference" in raised.value.hint


def test_encoder_works_after_a_refusal() -> None:
    encoder = codec.Encoder()
    bad = m.Outcome(1, "j", 0, [0, 1], b"\0\0", [blob(b"x"), m.Blob(b"", limits.FRAME_BYTES_MAX + 1)])
    with pytest.raises(TooLarge):
        encoder.encode([bad])
    good = m.Outcome(1, "j", 0, [0], b"\0", [blob(b"y")])
    assert encoder.encode([good]) == [pack([good])]


def test_a_field_that_is_no_payload_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="object is not a message field"):
        codec.Encoder().encode([m.Goodbye(object())])  # type: ignore[arg-type]


_FITS = m.Submit("j", 0, m.JobSpec(), 2, [b"a", b"b"])


def of_size(size: int) -> m.Blob:
    return m.Blob(b"", size)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"count": 0, "payloads": []}, UsageError, "a job without tasks"),
        ({"count": 200_000, "payloads": [b""]}, TooLarge, "200,000 tasks in one job: the limit is 100,000"),
        ({"spec": m.JobSpec(name="x" * 257)}, TooLarge, "257 characters in the job's name: the limit is 256"),
        ({"spec": m.JobSpec(name="\udcff")}, UsageError, r"the job's name '\\udcff' cannot be written as UTF-8"),
        ({"function": of_size(2**27)}, TooLarge, "134,217,728 bytes of the function: the limit is 67,112,960"),
        (
            {"payloads": [b"", of_size(2**27)]},
            TooLarge,
            "134,217,728 bytes of task 1's payload: the limit is 67,112,960",
        ),
        (
            {"count": 5, "payloads": [of_size(60_000_000)] * 5},
            TooLarge,
            "300,000,000 bytes of payloads in one job: the limit is 268,435,456",
        ),
        (
            {"count": 5000, "payloads": [bytes(14_000)] * 5000},
            TooLarge,
            r"70,\d\d\d,\d\d\d bytes of small payloads in one job: the limit is 67,112,960",
        ),
    ],
)
def test_submitter_is_told_what_no_scheduler_takes(
    changes: dict[str, object], error: type[Exception], words: str
) -> None:
    fields = {name: getattr(_FITS, name) for name in _FITS.__struct_fields__}
    with pytest.raises(error, match=words):
        codec.check_submit(m.Submit(**(fields | changes)))


@given(submit=messages_of(m.Submit))
def test_valid_jobs_may_be_submitted(submit: m.AnyMessage) -> None:
    assert isinstance(submit, m.Submit)
    codec.check_submit(submit)


def test_the_largest_jobs_may_be_submitted() -> None:
    many = m.Submit(
        "j", 2**53, m.JobSpec(), 100_000, [bytes(600)] * 100_000, b"f", list(range(100_000)), [2**53] * 100_000
    )
    codec.check_submit(many)
    [frames] = codec.Encoder().encode([many])
    assert len(frames) == 1
    large = m.Submit("j", 0, m.JobSpec(), 4, [of_size(64 * 1024 * 1024 - 100)] * 4, b"f")
    codec.check_submit(large)
    assert len(codec.Encoder().encode([large])[0]) == 5

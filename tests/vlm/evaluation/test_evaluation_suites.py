"""The readers of the public suites, on small files in the very form of the released ones."""

import json

import pytest
from PIL import Image
from suite_files import BLUE, GREEN, RED, item, picture

from negguide.mining.shards import FUNNEL, MARKERS
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.evaluation.suites import make_suite
from negguide.vlm.evaluation.suites.base import Choice


def colors(images):
    return [image.getpixel((0, 0)) for image in images]


@pytest.fixture
def winoground(tmp_path):
    rows = [
        {
            "id": i,
            "image_0": f"ex_{i}_img_0",
            "image_1": f"ex_{i}_img_1",
            "caption_0": f"{i} an old person kisses a young person",
            "caption_1": f"{i} a young person kisses an old person",
            "tag": "Adjective-Age",
            "secondary_tag": "",
            "num_main_preds": 1,
            "collapsed_tag": tag,
        }
        for i, tag in enumerate(("Object", "Relation", "Object"))
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    for i in range(3):
        picture(tmp_path / "images" / f"ex_{i}_img_0.png", RED)
        picture(tmp_path / "images" / f"ex_{i}_img_1.png", BLUE)
    return tmp_path


def test_winoground(winoground):
    part = make_suite(f"winoground:{winoground}").parts[""]
    assert [item.category for item in part.items] == ["Object", "Relation", "Object"]
    assert part.items[1].captions == (
        "1 an old person kisses a young person",
        "1 a young person kisses an old person",
    )
    assert [colors([part.images[i] for i in item.images]) for item in part.items] == [[RED, BLUE]] * 3
    limited = make_suite(f"winoground:{winoground}", limit=1).parts[""]
    assert [item.captions[0][0] for item in limited.items] == ["0", "1"]
    assert limited.items[1].images == (2, 3) and len(limited.images) == 4


def test_winoground_as_it_lies_on_the_hub_and_with_images_elsewhere(winoground, tmp_path_factory):
    hub = tmp_path_factory.mktemp("hub")
    winoground.rename(hub / "data")
    assert len(make_suite(f"winoground:{hub}").parts[""].items) == 3
    elsewhere = hub / "pictures, all"
    (hub / "data" / "images").rename(elsewhere)
    assert len(make_suite(f"winoground:{hub},images={elsewhere}").parts[""].images) == 6
    with pytest.raises(
        ValueError, match=r"6 of 6 images are missing, the first is .*ex_0_img_0.png; unpack images.zip"
    ):
        make_suite(f"winoground:{hub}")


def test_missing_images_are_counted_once_each(winoground):
    (winoground / "images" / "ex_1_img_0.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 images are missing, the first is .*ex_1_img_0.png"):
        make_suite(f"winoground:{winoground}")


def test_an_image_that_does_not_decode_is_named(winoground):
    (winoground / "images" / "ex_2_img_1.png").write_bytes(b"not a picture")
    part = make_suite(f"winoground:{winoground}").parts[""]
    with pytest.raises(ValueError, match=r"ex_2_img_1.png: cannot identify image file"):
        part.images[5]


def test_a_broken_row_is_named(winoground):
    file = winoground / "examples.jsonl"
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(ValueError, match=r"examples.jsonl, line 4, is no JSON"):
        make_suite(f"winoground:{winoground}")
    file.write_text('{"image_0": "a", "caption_0": "b", "caption_1": "c"}\n')
    with pytest.raises(ValueError, match=r"examples.jsonl, entry 0, lacks image_1"):
        make_suite(f"winoground:{winoground}")


def test_sugarcrepe(tmp_path):
    for name, negative in (("add_att", "A red man"), ("swap_obj", "A dog walks a man")):
        entries = {
            str(i): {
                "filename": f"00000000{i}.jpg",
                "caption": f"A man {i}",
                "negative_caption": f"{negative} {i}",
            }
            for i in range(3)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    for i in range(3):
        picture(tmp_path / "val2017" / f"00000000{i}.jpg", BLUE)
    part = make_suite(f"sugarcrepe:{tmp_path}").parts[""]
    assert [(item.category, item.options, item.answer) for item in part.items][3] == (
        "swap_obj",
        ("A man 0", "A dog walks a man 0"),
        0,
    )
    assert len(part.items) == 6 and part.macro == 1
    assert [i.category for i in make_suite(f"sugarcrepe:{tmp_path}", limit=1).parts[""].items] == [
        "add_att",
        "swap_obj",
    ]
    (tmp_path / "val2017").rename(tmp_path / "coco")
    with pytest.raises(
        ValueError, match=r"3 of 3 images are missing.*val2017.*sugarcrepe:PATH,images=FOLDER"
    ):
        make_suite(f"sugarcrepe:{tmp_path}")
    assert len(make_suite(f"sugarcrepe:{tmp_path},images={tmp_path / 'coco'}").parts[""].items) == 6
    with pytest.raises(ValueError, match=r"none of SugarCrepe's files \(add_att.json to swap_obj.json\)"):
        make_suite(f"sugarcrepe:{tmp_path / 'coco'}")
    (tmp_path / "add_obj.json").write_text('{"0": {"filename": "a.jpg", "caption": "b"}}')
    with pytest.raises(ValueError, match=r"add_obj.json, entry 0, lacks negative_caption"):
        make_suite(f"sugarcrepe:{tmp_path}")


def test_aro(tmp_path):
    box = {"bbox_x": 10, "bbox_y": 2, "bbox_w": 5, "bbox_h": 4}
    relation = {
        "image_id": 1, "image_path": "1.jpg", "relation_name": "eating", **box,
        "true_caption": "the horse is eating the grass", "false_caption": "the grass is eating the horse",
    }  # fmt: skip
    attribution = {
        "image_id": 1, "image_path": "1.jpg", "attributes": ["white", "wooden"], **box,
        "true_caption": "the white house and the wooden door", "false_caption": "the wooden house and the white door",
    }  # fmt: skip
    order = {
        "image": "val2014/COCO_1.jpg",
        "caption_options": ["a man rides a horse", "a horse rides a man", "man a rides horse a", "b", "c"],
    }
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps([relation, relation]))
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps([attribution]))
    (tmp_path / "coco_order.json").write_text(json.dumps([order]))
    page = Image.new("RGB", (20, 10), RED)
    page.paste(GREEN, (10, 2, 15, 6))
    (tmp_path / "images").mkdir()
    page.save(tmp_path / "images" / "1.png")
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / "1.jpg")
    picture(tmp_path / "val2014" / "COCO_1.jpg", BLUE)
    parts = make_suite(f"aro:{tmp_path}").parts
    assert list(parts) == ["visual_genome_relation", "visual_genome_attribution", "coco_order"]
    vgr, vga, coco = parts.values()
    assert vgr.images[1].size == (5, 4) and vgr.images[1].getcolors() == [(20, GREEN)]
    assert (vgr.items[0].category, vgr.items[0].options[vgr.items[0].answer]) == (
        "eating",
        "the horse is eating the grass",
    )
    assert vga.items[0].category == "white_wooden" and (vgr.macro, vga.macro, coco.macro) == (1, 25, None)
    assert {"next to", "with", "driving down"} <= vgr.left_out and "eating" not in vgr.left_out
    assert vga.left_out == coco.left_out == frozenset()
    assert (
        coco.items[0].options[coco.items[0].answer] == "a man rides a horse"
        and len(coco.items[0].options) == 5
    )
    assert len(make_suite(f"aro:{tmp_path}", limit=1).parts["visual_genome_relation"].items) == 1
    karpathy = [{"image": "val2014/COCO_1.jpg", "caption": ["a man"]}]
    (tmp_path / "coco_order.json").write_text(json.dumps(karpathy))
    with pytest.raises(ValueError, match=r"coco_order.json, entry 0, lacks caption_options"):
        make_suite(f"aro:{tmp_path}")
    with pytest.raises(ValueError, match=r"none of ARO's files \(visual_genome_relation.json, "):
        make_suite(f"aro:{tmp_path / 'images'}")


MCQ = """image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template
coco/1.jpg,2,"A dog, no cat",A cat,A dog without a cat,No dog,hybrid
coco/1.jpg,0,A dog,A cat,A bird,No dog,positive
"""


def test_negbench(tmp_path):
    (tmp_path / "COCO_val_mcq.csv").write_text(MCQ)
    (tmp_path / "COCO_val_retrieval.csv").write_text(
        "filepath,image_id,captions\n"
        'coco/1.jpg,1,"[\'A dog runs.\', ""There\'s no cat.""]"\n'
        "coco/2.jpg,2,['A bird.']\n"
    )
    picture(tmp_path / "coco" / "1.jpg", RED)
    picture(tmp_path / "coco" / "2.jpg", BLUE)
    parts = make_suite(f"negbench:{tmp_path}").parts
    choices, retrieval = parts["COCO_val_mcq"], parts["COCO_val_retrieval"]
    first = choices.items[0]
    assert (first.options[0], first.answer, first.category) == ("A dog, no cat", 2, "hybrid")
    assert retrieval.captions == ("A dog runs.", "There's no cat.", "A bird.")
    assert retrieval.owners == (0, 0, 1) and not retrieval.both
    assert list(make_suite(f"negbench:{tmp_path / 'COCO_val_mcq.csv'}").parts) == ["COCO_val_mcq"]
    (tmp_path / "coco").rename(tmp_path / "val2017")
    with pytest.raises(ValueError, match=r"1 of 1 images are missing.*negbench:PATH,images=FOLDER"):
        make_suite(f"negbench:{tmp_path}")
    assert len(make_suite(f"negbench:{tmp_path},images={tmp_path / 'val2017'}").parts) == 2


@pytest.mark.parametrize(
    ("captions", "answer", "options", "right"),
    [
        ("zero,,two,three", 2, ("zero", "two", "three"), "two"),
        ("zero,,two,three", 3, ("zero", "two", "three"), "three"),
        (",one, ,three", 1, ("one", "three"), "one"),
        ("zero,one,,", 1, ("zero", "one"), "one"),
    ],
)
def test_an_answer_counts_the_captions_that_are_left_out(tmp_path, captions, answer, options, right):
    header = MCQ.partition("\n")[0]
    (tmp_path / "mcq.csv").write_text(f"{header}\n1.jpg,{answer},{captions},hybrid\n")
    picture(tmp_path / "1.jpg", RED)
    (only,) = make_suite(f"negbench:{tmp_path}").parts["mcq"].items
    assert only.options == options and only.options[only.answer] == right


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", r"bad.csv has the columns \['a', 'b'\]; NegBench's have image_path"),
        (
            MCQ.replace(",2,", ",4,"),
            r"bad.csv, line 2: correct_answer='4' is not the number of one of its 4 captions",
        ),
        (MCQ.replace(",2,", ",no,"), r"correct_answer='no' is not the number"),
        (MCQ.replace(",2,", ",²,"), r"correct_answer='²' is not the number"),
        (MCQ.replace(",2,", ",-1,"), r"correct_answer='-1' is not the number"),
        (
            MCQ.replace("A dog without a cat", ""),
            r"bad.csv, line 2: correct_answer='2' is that of an empty one, not of one of its 3 captions",
        ),
        # a cell of two lines: the row that is wrong begins in line 4
        (
            MCQ.replace("A dog, no cat", "A dog,\nno cat").replace(",0,A dog", ",0, "),
            r"bad.csv, line 4: correct_answer='0' is that of an empty one",
        ),
        (
            MCQ.replace("A cat,A bird,No dog", ",,"),
            r"bad.csv, line 3, has caption_0 alone; a choice needs two",
        ),
        ("filepath,captions\n1.jpg,A dog\n", r"bad.csv, line 2: captions='A dog' is not a Python list"),
        ("filepath,captions\n1.jpg,[]\n", r"is not a Python list of captions"),
    ],
)
def test_negbench_files_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_suite(f"negbench:{tmp_path}")


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_entry_with_an_empty_caption_is_named(tmp_path, empty):
    row = {"image_0": "a", "image_1": "b", "caption_0": "c", "caption_1": empty}
    (tmp_path / "examples.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"examples.jsonl, entry 0: caption_1=.* is no caption"):
        make_suite(f"winoground:{tmp_path}")
    entries = {"0": {"filename": "1.jpg", "caption": empty, "negative_caption": "b"}}
    (tmp_path / "add_att.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"add_att.json, entry 0: caption=.* is no caption"):
        make_suite(f"sugarcrepe:{tmp_path}")
    for options in (["a", empty], ["a"], "ab"):
        (tmp_path / "coco_order.json").write_text(
            json.dumps([{"image": "1.jpg", "caption_options": options}])
        )
        with pytest.raises(
            ValueError, match=r"coco_order.json, entry 0: caption_options=.* is not a list of two"
        ):
            make_suite(f"aro:{tmp_path}")


def test_a_choice_has_two_options_and_its_answer_among_them():
    with pytest.raises(ValueError, match=r"options=\('a',\) must be at least two"):
        Choice(0, ("a",), 0, "x")
    for answer in (-1, 2):
        with pytest.raises(
            ValueError, match=f"answer={answer} must be the place of one of the 2 options, 0 to 1"
        ):
            Choice(0, ("a", "b"), answer, "x")


@pytest.fixture
def mined(tmp_path):
    folder = tmp_path / "my-set"
    for shard, items in enumerate(
        ([item(0, "object", positive_captions=("other words",)), item(1, "count")], [item(2, "object")])
    ):
        place = folder / "data" / f"{shard:05d}"
        place.mkdir(parents=True)
        (place / "shard.json").write_text("{}")
        (place / "metadata.jsonl").write_text("".join(json.dumps(i.row()) + "\n" for i in items))
        for i in items:
            picture(place / i.image_file_name, RED)
            picture(place / i.negative_image_file_name, BLUE)
    (folder / "set.json").write_text("{}")
    return folder


def test_a_mined_set(mined):
    suite = make_suite(str(mined))
    part = suite.parts[""]
    assert suite.name == "my-set" and [i.category for i in part.items] == ["object", "count", "object"]
    assert part.items[2].captions == ("caption 2", "negative 2")
    assert [i.paraphrases for i in part.items] == [("other words",), (), ()]
    assert colors([part.images[i] for i in part.items[2].images]) == [RED, BLUE]
    assert len(make_suite(str(mined), limit=1).parts[""].items) == 2
    file = mined / "data" / "00001" / "metadata.jsonl"
    file.write_text(file.read_text().replace("negative 2", "another"))
    assert make_suite(str(mined)).version != suite.version


def test_half_a_mined_set_is_trained_and_measured_on_with_a_warning(mined, caplog):
    make_suite(str(mined))
    read_triplets(str(mined))
    assert not caplog.records
    (mined / MARKERS).mkdir()
    make_suite(str(mined))
    read_triplets(str(mined))
    told = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(" is ")[2] for text in told] == ["measured on", "trained on"]
    assert all(text.startswith(f"{mined} is not complete: ") for text in told)
    # which is there once it is complete
    caplog.clear()
    (mined / FUNNEL).write_text("{}")
    make_suite(str(mined))
    assert not caplog.records


def test_a_mined_set_without_its_images_or_items_is_refused(mined, tmp_path):
    (mined / "data" / "00001" / "2-n.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 images are missing.*moved without its images"):
        make_suite(str(mined))
    (tmp_path / "empty" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty is empty; nothing can be measured"):
        make_suite(str(tmp_path / "empty"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no hard-negative set"):
        make_suite(str(tmp_path / "none"))


def test_what_is_no_suite_is_refused_with_what_would_be_right(tmp_path):
    with pytest.raises(
        ValueError, match=r"suite='nothing' is unknown; use one of: toyworld, toyworld-2, aro:PATH"
    ):
        make_suite("nothing")
    with pytest.raises(ValueError, match=r"suite='winoground:/no/such' *: there is no /no/such"):
        make_suite("winoground:/no/such")
    with pytest.raises(ValueError, match=r"there is no path after the colon"):
        make_suite("aro:")
    with pytest.raises(ValueError, match=r"there is no .*examples.jsonl; give the folder that Winoground"):
        make_suite(f"winoground:{tmp_path}")
    with pytest.raises(ValueError, match=r"limit=0 must be at least 1"):
        make_suite("toyworld", limit=0)

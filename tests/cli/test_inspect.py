"""`d2e inspect`: what it shows of programs and models, on screens of any width, and the files it writes."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

from nir.serialization import read_version

import d2e as package
from d2e.compiler.report.words import engineering, number, percent
from d2e.ir import nirfile, to_text


def test_a_program_is_shown_with_the_figures_of_its_report(d2e, program):
    done = d2e("inspect", program)
    assert (done.code, done.err) == (0, "")
    report = json.loads((program / "report.json").read_text())
    facts = json.loads((program / "manifest.json").read_text())
    lines = done.out.splitlines()
    assert lines[0] == str(program)
    cells = [line.split() for line in lines]
    for row in report["layers"]:
        (shown,) = [line for line in cells if line[:1] == [row["name"]] and line[1] == row["kind"]]
        assert number(row["synops_per_sample"]) in shown
        assert number(row["spikes_per_sample"]) in shown
    for row in report["accuracy"]["passes"]:
        assert [row["pass"], *percent(row["accuracy"]).split(), number(row["spikes"]), str(row["max_count_error"])] in cells
    for row in report["energy"]:
        assert any(line.startswith(row["of"]) and row["label"] in line for line in lines)
    for row in report["energy_published"]:
        assert any(line.startswith(f"{engineering(row['value'], row['unit'])} {row['label']}") for line in lines)
    for row in report["raster"]["rows"]:
        place = lines.index(f"{row['name']}: {row['active']:,} of {row['neurons']:,} active")
        assert lines[place + 1].strip() in row["trains"]
    assert facts["model"]["sha256"] in done.out
    for name, used in report["fit"].items():
        assert any(line.split() == [*name.split("_"), number(used["used"]), number(used["limit"])] for line in lines)
    assert f"fits, {report['totals']['cores']} of 128 cores" in done.out
    assert any(line.startswith("d2e-compile model.pt --target loihi2-sim") for line in lines)
    assert ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) in done.out


def test_what_is_piped_is_plain(d2e, program):
    done = d2e("inspect", program)
    assert "\x1b" not in done.out
    assert all(line == line.rstrip() and len(line) <= 120 for line in done.out.splitlines()[1:] if "d2e-compile" not in line)
    assert d2e("inspect", program).out == done.out


def test_the_map_of_cores_has_a_letter_per_core(d2e, program):
    report, out = json.loads((program / "report.json").read_text()), d2e("inspect", program).out
    below = out[out.index("Cores\n") + 6 :]
    rows = re.match(r"(?:[a-zA-Z.]+\n)+", below)[0].split()
    letters = "".join(rows)
    assert len(letters) == report["core_map"]["cores"]
    used = {core for core, *_ in report["core_map"]["rows"]}
    assert {i for i, letter in enumerate(letters) if letter != "."} == used


def test_narrow_screens_lose_columns_not_lines(d2e, program):
    wide, narrow = (d2e("inspect", program, COLUMNS=str(width)).out for width in (120, 44))
    assert max(len(line) for line in narrow.splitlines()[1:] if "d2e-compile" not in line) <= 44
    names = [row["name"] for row in json.loads((program / "report.json").read_text())["layers"]]
    for out in (wide, narrow):
        layers = out[out.index("\nLayers\n") : out.index("\nCores\n")]
        assert [line.split()[0] for line in layers.splitlines()[4:] if line] == names


def test_the_network_is_shown_where_it_is_asked_for(d2e, program, model):
    loaded = package.load(program)
    plain, done = d2e("inspect", program), d2e("inspect", program, "--network")
    assert (done.code, done.err) == (0, "")
    report, _, network = done.out.partition("network {")
    assert report == plain.out
    assert network.splitlines()[1:] == to_text(loaded.network).splitlines()[1:]
    assert "placement" not in done.out
    done = d2e("inspect", model)
    assert (done.code, done.err) == (0, "")
    assert "  %1 = if(shape=(16, 8, 8)) <- 0\n" in done.out
    assert d2e("inspect", program / "program.nir").out.splitlines()[1:] == network.splitlines()[1:]


def test_graph_draws_programs_and_models(d2e, program, model, tmp_path):
    for source, titles in ((program, ["Before mapping", "After mapping"]), (model, ["Network"])):
        done = d2e("inspect", source, "--graph", "n.svg")
        assert (done.code, done.out, done.err) == (0, "", "written n.svg\n")
        drawn = (tmp_path / "n.svg").read_bytes()
        texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
        assert [text for text in texts if text in ("Before mapping", "After mapping", "Network")] == titles
        assert texts.count("conv 3x3") == len(titles)
        assert d2e("inspect", source, "--graph", "n.svg").code == 0
        assert (tmp_path / "n.svg").read_bytes() == drawn
    assert "D2E-FILE-011" in d2e("inspect", model, "--graph", "none/n.svg").err
    done = d2e("inspect", program, "--graph", "n.png")
    assert (done.code, "D2E-USE-020" in done.err) == (2, True)
    assert not (tmp_path / "n.png").exists()


def test_nir_files_for_older_readers(d2e, program, model, tmp_path):
    for source, expected in ((program, package.load(program).network), (model, None)):
        done = d2e("inspect", source, "-o", "n.nir", "--nir-compat", "1.0.4")
        assert (done.code, done.out, done.err) == (0, "", "")
        assert read_version(tmp_path / "n.nir") == "1.0.4"
        assert expected is None or nirfile.read(tmp_path / "n.nir").same(expected)
    assert d2e("inspect", model, "-o", "new.nir").code == 0
    assert read_version(tmp_path / "new.nir") == "1.0.8"
    assert "D2E-USE-018" in d2e("inspect", model, "--nir-compat", "1.0.4").err
    assert "D2E-NIR-001" in d2e("inspect", model, "-o", "x.nir", "--nir-compat", "1.0.5").err
    assert not (tmp_path / "x.nir").exists()


def test_a_terminal_that_lacks_letters_gets_others(d2e, program):
    plain, whole = (d2e("inspect", program, PYTHONIOENCODING=name) for name in ("ascii", "utf-8"))
    assert (plain.code, plain.err) == (0, "")
    assert (plain.out.isascii(), whole.out.isascii()) == (True, False)
    assert len(plain.out.splitlines()) == len(whole.out.splitlines())

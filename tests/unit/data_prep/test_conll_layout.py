"""Files in columns are read as they are laid out, or refused with the line that does not fit. All words are made up."""

import ast
import random

import pytest

from data_prep import conll
from data_prep.conll_layout import read_table
from mtdnn.errors import DataError


def converted(tmp_path, text, name="train.txt", **columns):
    """(tags, words) of each row, and the report."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_text(text, encoding="utf-8")
    report = conll.convert(tmp_path / "in", tmp_path / "out", **columns)[0]
    rows = [line.split("\t") for line in report.path.read_text(encoding="utf-8").splitlines()]
    return [(tags, words) for _, tags, words in rows], str(report)


def refused(tmp_path, text, name="train.txt"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        conll.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value).replace(str(tmp_path), "")


SENTENCE = [("Ada", "B-PER"), ("Birch", "I-PER"), ("saw", "O"), ("Leith", "B-LOC")]
TAGS, WORDS = "B-PER I-PER O B-LOC", "Ada Birch saw Leith"
LAYOUTS = {
    "two columns by spaces": "{word} {tag}",
    "two columns by tabs": "{word}\t{tag}",
    "several tabs between": "{word}\t\t\t{tag}",
    "the tag first": "{tag}\t{word}",
    "four columns": "{word} NN I-NP {tag}",
    "two placeholders": "{word} _ _ {tag}",
    "row numbers": "{number}\t{word}\t{tag}",
    "row numbers by spaces": "{number} {word} {tag}",
    "nested tags": "{number}\t{word}\t{tag}\tO",
    "tags before an annotator": "{number}\t{word}\t{tag}\t-\tada",
}


@pytest.mark.parametrize("line", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("comment", ["", "# sent_id = 7\n# text = Ada Birch saw Leith\n", "# id a1b2\tdomain=en\n"])
def test_words_and_tags_are_found_in_every_layout(tmp_path, line, comment):
    lines = [line.format(word=word, tag=tag, number=number) for number, (word, tag) in enumerate(SENTENCE, 1)]
    block = comment + "\n".join(lines) + "\n\n"
    rows, _ = converted(tmp_path, block + "-DOCSTART- -X- O O\n\n" + block)
    assert rows == [(TAGS, WORDS)] * 2


def test_the_report_says_where_words_and_tags_were_found(tmp_path):
    nested = "# source\n1\tAda\tB-PER\tO\n2\tat\tO\tO\n3\tLeith\tB-ORG\tB-LOC\n"
    rows, report = converted(tmp_path, nested)
    assert rows == [("B-PER O B-ORG", "Ada at Leith")]
    assert report.endswith(
        "1 rows written; words from column 2, tags from column 3 of 4, tags in column 4 too, which are left out, "
        "1 comment lines left out"
    )


def test_numbers_may_go_on_from_sentence_to_sentence_or_begin_at_zero(tmp_path):
    assert converted(tmp_path, "0\tAda\tB-PER\n1\tleft\tO\n\n2\tRain\tO\n3\tfell\tO\n")[0] == [
        ("B-PER O", "Ada left"),
        ("O O", "Rain fell"),
    ]


def test_conll_u_gives_syntactic_words_and_universal_parts_of_speech(tmp_path):
    cells = "{}\t{}\t_\t{}\t_\t_\t0\troot\t_\t_"
    lines = [("1-2", "au", "_"), ("1", "à", "ADP"), ("2", "le", "DET"), ("2.1", "est", "VERB"), ("3", "port", "NOUN")]
    text = "# text = au port\n" + "\n".join(cells.format(*line) for line in lines) + "\n"
    rows, report = converted(tmp_path, text, "train.conllu")
    assert rows == [("ADP DET NOUN", "à le port")]
    assert "words from column 2, tags from column 4 of 10" in report


def test_a_word_with_a_space_stays_whole_and_is_one_word_to_the_task(tmp_path):
    rows, _ = converted(tmp_path, 'New York\tB-LOC\nis\tO\n10\u00a0000\tO\n\'no "t" \\\tO\n')
    words = ast.literal_eval(rows[0][1])
    assert words == ["New York", "is", "10\u00a0000", '\'no "t" \\']
    assert rows[0][0] == "B-LOC O O O"


@pytest.mark.parametrize("words", [["[", "'a'", "]"], ["[1]"], ["a", "\u00a0"], ["["], ["a", "b"]])
def test_words_of_a_row_are_read_back_as_they_were(words):
    from mtdnn.task_types.sequence_labeling import words_of

    assert words_of(conll.joined(words)) == words


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("# NN O", "# ok"),  # the word "#"
        ("#tag NN B-X", "#tag ok"),
        ("#tag NN B-NEW", "#tag ok"),
        ("# NN B-NEW", "# ok"),
        ("# text = one two three", "ok"),
        ("# text x", "ok"),
        ("#", "ok"),
    ],
)
def test_a_mark_that_begins_a_line_is_a_word_where_it_is_tagged_and_a_comment_before_a_sentence(tmp_path, line, kept):
    rows, _ = converted(tmp_path, f"a NN B-X\n\n{line}\nok NN O\n")
    assert [words for _, words in rows] == ["a", kept]


def test_a_comment_among_words_is_refused_where_rows_have_no_numbers(tmp_path):
    assert refused(tmp_path, "a O\n# stray note here\nb B-X\n") == (
        "/train.txt:2: 4 columns; most lines have 2. Correct the line, or remove it."
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ada B-PER\nNew York B-LOC\nx O\n", ":2: 3 columns; most lines have 2"),
        ("New York\tB-LOC\nis\tO\nbig O\n", ":3: 'big O' has no tag"),
        ("a\tO\n\tB-X\n", ":2: no word"),
        ("a B-X\nb'I-X\nc O\n", ":2: 'b'I-X' has no tag"),
        ("a B-X\n7 b'I-X\nc O\n", ":2: 'b'I-X' is no tag such as O, B-PER or I-PER"),
        ("1\ta\tB-X\n2\tb\tO\n\n1\tc\tO\nx\td\tO\n\n1\te\tO\n2\tf\tO\n", ":5: 'x' in place of the word's number"),
        ("1\ta\tB-X\n2\tb\t_\n", ":2: '_' is no tag"),
        ("a\tDET\nb\tNOUN\u00a0X\n", ":2: 'NOUN\u00a0X' is no tag"),
        (
            "a B-X 0.9\nb O 0.8\n",
            ": tags of entities are in column 2 of 3, not in the last. Name them with --word_column",
        ),
        ("4\ta\tB-X\n9\tb\tO\n", ": the first column holds numbers that do not count words"),
        ("1\ta\tb\tc\n2\td\te\tf\n", ": none of its 4 columns holds tags of entities alone"),
        ("d1\tAda\tB-PER\nd1\tleft\tO\n\nd1\tRain\tO\nd1\tfell\tO\n", ": the first column is the same for all"),
        ("w1\tAda\tB-PER\nw2\tleft\tO\n", ": the first column numbers the words ('w1', 'w2', …). Name them with"),
        ("s1-w1\tAda\ns1-w2\tleft\n", ": the first column numbers the words ('s1-w1', 's1-w2', …)"),
        ("1\tAda\n2\tleft\n\n1\tRain\n2\tfell\n", ": no column of tags, in a train split"),
        ("Ships\tNNS\tship\nsail\tVBP\tsail\n.\t.\t.\n", ": column 3 repeats the words, as lemmas do. Name them with"),
        ("Word\tTag\nAda\tB-PER\nleft\tO\n", ":1: 'Word Tag' is a header, not a word with its tag. Remove the line."),
        ("ID FORM UPOS\n1 Ada PROPN\n2 left VERB\n", ":1: 'ID FORM UPOS' is a header"),
        ("#begin document (a)\na 0 1 x NN (X*\n", ":1: CoNLL-2012's layout"),
        ("a\nb\n", ": no column of tags, in a train split"),
        ("a _ _ _\nb _ _ _\n", ": no column of tags, in a train split"),
        ("# only\n# notes\n", ": no words"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place_and_nothing_is_written(tmp_path, text, found):
    assert f"/train.txt{found}" in refused(tmp_path, text)


def test_every_line_that_does_not_fit_is_reported_at_once(tmp_path):
    assert len(refused(tmp_path, "a B-X\nb\nc O\nd\n").splitlines()) == 2
    many = refused(tmp_path, "a B-X\n" * 60 + "b\n" * 30).splitlines()
    assert len(many) == 21 and many[-1] == "/train.txt: 10 more errors like these"


@pytest.mark.parametrize(
    "text", ["1\ta\n2\tb\n\n1\tc\n", "a _ _ _\nb _ _ _\n\nc _ _ _\n", "a\nb\n\nc\n", "a -\nb -\n\nc -\n"]
)
def test_a_test_split_without_tags_has_rows_without_labels(tmp_path, text):
    assert converted(tmp_path, text, "test.txt")[0] == [("", "a b"), ("", "c")]


def test_words_that_their_tags_or_other_words_repeat_are_words(tmp_path):
    text = "ha UH\nha UH\nha UH\n\nOla NNP\nleft VBD\n. .\n\nB2 NN\nA1 NN\n"
    rows, _ = converted(tmp_path, text)
    assert [words for _, words in rows] == ["ha ha ha", "Ola left .", "B2 A1"]


def test_what_is_no_word_is_left_out_where_the_columns_are_named(tmp_path):
    text = "d1\tAda\tB-PER\nd1\tleft\tO\n\nd2\tRain\tO\nd2\tfell\tO\n"
    assert converted(tmp_path, text, word_column=2)[0] == [("B-PER O", "Ada left"), ("O O", "Rain fell")]
    tagged = "Ships\tNNS\tship\nsail\tVBP\tsail\n.\t.\t.\n"
    assert converted(tmp_path, tagged, tag_column=2)[0] == [("NNS VBP .", "Ships sail .")]


def test_columns_may_be_named(tmp_path):
    text = "a B-X B-Y 0.9\nb O O 0.8\n"
    assert converted(tmp_path, text, tag_column=2)[0] == [("B-X O", "a b")]
    assert converted(tmp_path, text, word_column=4, tag_column=3)[0] == [("B-Y O", "0.9 0.8")]
    with pytest.raises(DataError, match="no column 5; the lines have 4"):
        converted(tmp_path, text, tag_column=5)


def test_random_tables_are_read_back_in_every_layout(tmp_path):
    """200 files with words out of letters, digits, # and quotes; with tabs also with spaces inside."""
    draw = random.Random(0)
    tags = ["O", "O", "B-PER", "B-LOC"]
    for _ in range(200):
        layout = draw.choice([each for each in LAYOUTS.values() if each != "{tag}\t{word}"])
        letters = "abc19#'\"[]-_" + (" " if layout == "{word}\t{tag}" or layout.startswith("{number}\t") else "")
        sentences = [
            [("".join(draw.choices(letters, k=draw.randint(1, 4))).strip() or "x", draw.choice(tags)) for _ in range(4)]
            for _ in range(draw.randint(3, 6))
        ]
        sentences[0][0] = ("Ada", "B-PER")
        blocks = [
            "".join(layout.format(word=w, tag=t, number=n) + "\n" for n, (w, t) in enumerate(words, 1))
            for words in sentences
        ]
        path = tmp_path / "train"
        path.write_text("\n".join(blocks), encoding="utf-8")
        assert read_table(path).sentences == sentences, path.read_text()

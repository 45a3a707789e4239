"""Scores somebody's saved captions or answers: the whole of `vlm-heads judge`, as plain data and without torch."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import GivenAnswer, Question, read_answers, read_captions, read_questions
from vlm_evals.data.truth import load_truth
from vlm_evals.errors import AnswerMismatch
from vlm_evals.metrics import chair, pope
from vlm_evals.metrics.pope import Parser, QuestionScore
from vlm_evals.records import file_hash, image_key, write_rows
from vlm_evals.text.objects import ObjectFinder, Pipeline, VocabularyName

Source = Path | str


def judge_chair(
    file: Source,
    truth: Source | Sequence[Source],
    *,
    pipeline: Pipeline = "chair-2018",
    vocabulary: VocabularyName = "published",
    per_caption: Source | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Return what CHAIR makes of a file of captions.

    Args:
        file: captions in any layout of `formats.read_captions`.
        truth: a saved index, a folder of COCO annotations, or COCO files; see `truth.load_truth`.
        pipeline: the text pipeline of the captions. Human captions in COCO files are read with chair-2018 whichever is
            chosen, as in the published tables; an index says for itself.
        vocabulary: "published" or "corrected".
        per_caption: JSON lines to write, in the order of the file: image_id, mentions, hallucinated.
        cache: folder of the index built from COCO files; by default the user's cache folder.

    Returns:
        Every metric of `chair.RATIOS` as a fraction (None where undefined), `counts`, `undefined`, `images`,
        `most_invented`, `pipeline`, `vocabulary`, `files` and `hashes` (names and SHA-256 of captions and truth; of
        the sources where the truth was built from COCO files), `truth_images` and `notes`.

    Raises:
        FileFormatError: naming file and line.
        UnknownImage: for an image that is not in the ground truth.
    """
    finder = ObjectFinder(pipeline, vocabulary)
    reader = finder if pipeline == "chair-2018" else ObjectFinder("chair-2018", vocabulary)
    objects = load_truth(truth, reader, cache)
    captions = read_captions(file)
    scores = chair.score_captions(captions, objects, finder)
    if per_caption is not None:
        write_rows(Path(per_caption), (score.as_row() for score in scores))
    return {
        **chair.corpus_metrics(scores),
        "images": len({image_key(caption.image_id) for caption in captions}),
        "most_invented": chair.most_invented(scores),
        "pipeline": pipeline,
        "vocabulary": vocabulary,
        "files": {"captions": Path(file).name, "truth": objects.source},
        "hashes": {"captions": file_hash(Path(file)), "truth": objects.digest},
        "truth_images": len(objects.objects),
        "notes": list(finder.notes),
    }


def judge_pope(
    answers: Source | Sequence[Source],
    questions: Source | Sequence[Source],
    *,
    parser: Parser = "strict-neither",
    per_question: Source | None = None,
) -> dict[str, Any]:
    """Return what POPE makes of a file of answers, or of one file a split.

    Args:
        answers: POPE or LLaVA answers or an lmms-eval log; one file for each file of questions, or one for all.
        questions: POPE question files, each a split; any edition, read as it is.
        parser: see `pope.parse_answer`.
        per_question: JSON lines to write: question_id, split, label, reading, answer.

    Returns:
        Every metric of `pope.RATIOS` (the mean over splits), `splits`, `questions`, `parser`, `files` (`answers`:
        names; `questions`: name with counts of questions, labels and images) and `hashes` (name -> SHA-256).

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    asked = _several(questions)
    given = _several(answers)
    scores, counted = _scored(given, asked, parser)
    if per_question is not None:
        write_rows(Path(per_question), (score.as_row() for score in scores))
    return {
        **pope.corpus_metrics(scores),
        "questions": len(scores),
        "parser": parser,
        "files": {"answers": [path.name for path in given], "questions": counted},
        "hashes": {path.name: file_hash(path) for path in (*given, *asked)},
    }


def _several(source: Source | Sequence[Source]) -> list[Path]:
    return [Path(source)] if isinstance(source, Path | str) else [Path(one) for one in source]


def _scored(
    given: Sequence[Path], asked: Sequence[Path], parser: Parser
) -> tuple[list[QuestionScore], list[dict[str, Any]]]:
    """Return the scores of all files and what each file of questions holds."""
    questions = {path: read_questions(path) for path in asked}
    counted = [_edition(path, found) for path, found in questions.items()]
    if len(given) == len(asked):
        pairs = zip(given, questions.values(), strict=True)
        return [score for path, found in pairs for score in _score(path, found, parser)], counted
    if len(given) == 1:
        return _score(given[0], [question for found in questions.values() for question in found], parser), counted
    raise AnswerMismatch(
        f"{len(given)} files of answers for {len(asked)} files of questions; give one for each, or one for all"
    )


def _score(path: Path, questions: Sequence[Question], parser: Parser) -> list[QuestionScore]:
    answers: list[GivenAnswer] = read_answers(path)
    try:
        return pope.score_answers(questions, answers, parser)
    except AnswerMismatch as error:
        raise AnswerMismatch(f"{path}: {error}") from error


def _edition(path: Path, questions: Sequence[Question]) -> dict[str, Any]:
    labels = Counter(question.label for question in questions)
    return {
        "name": path.name,
        "questions": len(questions),
        "yes": labels["yes"],
        "no": labels["no"],
        "images": len({image_key(question.image) for question in questions}),
    }

"""Names of people and places in a text without capitals, by an encoder pre-trained as ERNIE is: whole names are hidden.

Sun et al. 2019, "ERNIE: Enhanced Representation through Knowledge Integration", arXiv 1904.09223. Names and words are
hidden whole, so what stands around a name has to tell it, which is just what finds a name that nobody met before.
Knowledge from outside comes in too: passages are read again under other names, from a census and a list of towns.
"""

from functools import partial

from contract.schema import (
    AxisRange,
    GenerationPostprocess,
    Slo,
    TensorSpec,
    TextPreprocess,
    TokenLabelsPostprocess,
)
from training.dataset.name_tag import (
    LABELS,
    NAME,
    OUTSIDE,
    hidden,
    measure,
    most_frequent_tag,
    most_frequent_tag_or_list,
    tagged,
)
from training.gate import Gate
from training.masked import HiddenTokens, Hide, found, most_frequent, num_hidden
from training.network.transformer import Encoder, MaskedWords, TokenTagger
from training.next_token import NextToken
from training.objective import MultiTask, Part
from training.recipe import Recipe
from training.recipes.bert import AVERAGE, config
from training.text import END_ID, MASK_ID, PAD_ID, SPECIAL, START_ID, TOKENIZER_FILE, UNKNOWN_ID

NUM_TOKENS = 8_192  # twice as many as for the novels alone: common names are tokens of their own
NUM_RENAMED = 3  # readings of a passage under other names: an epoch is four of the novels
MAX_LENGTH = 64  # tokens: all of 98 passages in a hundred

INPUTS = (TensorSpec(name="ids", datatype="INT32", shape=(MAX_LENGTH,)),)
PREPROCESS = TextPreprocess(
    tokenizer=TOKENIZER_FILE, ids_tensor="ids", max_length=MAX_LENGTH, pad_id=PAD_ID, unknown_id=UNKNOWN_ID
)
BATCH = AxisRange(min=1, opt=8, max=32)
RIGHT_TAGS = NextToken(num_tokens=len(LABELS), score_name="right tags")
SLO = Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999)


def encoder() -> Encoder:
    """Two layers of width 128 with four heads, as in training/recipes/bert.py."""
    return Encoder(
        num_tokens=NUM_TOKENS, max_length=MAX_LENGTH, width=128, num_heads=4, num_layers=2, dropout=0.1, pad=PAD_ID
    )


def masked_words() -> MaskedWords:
    """The network that is pre-trained."""
    return MaskedWords(
        encoder(), num_hidden=num_hidden(MAX_LENGTH), mask=MASK_ID, start=START_ID, num_special=len(SPECIAL)
    )


def tagger() -> TokenTagger:
    """The network that is fine-tuned."""
    return TokenTagger(encoder(), len(LABELS), dropout=0.1, blank=(PAD_ID, START_ID, END_ID))


PRETRAINING = Recipe(
    name="entities-ernie-pretraining",
    model="entities-ernie-gaps",
    task="fill-mask",
    description="Fills the gaps of a text as Jane Austen might have, each written [MASK].",
    data=NAME,
    load=partial(hidden, preprocess=PREPROCESS, inputs=INPUTS, tokens=NUM_TOKENS, renamed=NUM_RENAMED, mask=MASK_ID),
    network=masked_words,
    objective=HiddenTokens(num_tokens=NUM_TOKENS),
    augment=Hide(num_tokens=NUM_TOKENS, mask=MASK_ID, num_special=len(SPECIAL)),
    inputs=INPUTS,
    outputs=(TensorSpec(name="filled", datatype="INT32", shape=(MAX_LENGTH,)),),
    batch=BATCH,
    preprocess=PREPROCESS,
    postprocess=GenerationPostprocess(tensor="filled", tokenizer=TOKENIZER_FILE, end_id=END_ID, pad_id=PAD_ID),
    metrics=found,
    slo=SLO,
    # Twelve readings of the novels: as many as seven minutes on two cores allow; it would learn on.
    config=config(3, 1e-3),
    gates=(Gate(metric="found_tokens", at_least=0.10),),
    quick_config=config(1, 1e-3, 512),
    # That some tokens are frequent: any one is found 0.0002 of the time.
    quick_gates=(Gate(metric="found_tokens", at_least=0.02),),
    baselines={"most frequent token": most_frequent},
)

ENTITIES = Recipe(
    name="entities-ernie",
    model="entities-ernie",
    task="token-classification",
    description="Finds the people and places that an English text names, whether or not it has capitals.",
    data=NAME,
    load=partial(tagged, preprocess=PREPROCESS, inputs=INPUTS, tokens=NUM_TOKENS, renamed=NUM_RENAMED),
    network=tagger,
    objective=MultiTask(parts=(Part(objective=RIGHT_TAGS, target="tags", outputs=(0,)),), score_name="right tags"),
    after=PRETRAINING,
    fresh=("beside.*", "head.*"),
    inputs=INPUTS,
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(MAX_LENGTH, len(LABELS))),),
    batch=BATCH,
    preprocess=PREPROCESS,
    postprocess=TokenLabelsPostprocess(tensor="logits", labels=LABELS, outside=LABELS[OUTSIDE]),
    metrics=measure,
    slo=SLO,
    config=config(2, 1e-3, average=AVERAGE),
    gates=(Gate(metric="span_f1", at_least=0.86),),  # the dictionary with lists comes to 0.851
    quick_config=config(1, 2e-3, 4_096),
    quick_gates=(Gate(metric="span_f1", at_least=0.45),),
    baselines={
        "most frequent tag of each word": most_frequent_tag,
        "most frequent tag, or list of names": most_frequent_tag_or_list,
    },
)

RECIPES = (PRETRAINING, ENTITIES)

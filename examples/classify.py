"""Classify sentences with a downloaded model and plain transformers: no Luthier in here.

    python examples/classify.py MODEL_FOLDER "sentence" ["sentence" ...]

Prints one JSON object a sentence.
"""

import json
import sys

from transformers import pipeline

folder, *sentences = sys.argv[1:]
classify = pipeline("text-classification", model=folder, device="cpu")
for sentence, answer in zip(sentences, classify(sentences), strict=True):
    print(json.dumps({"text": sentence, **answer}))

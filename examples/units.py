"""Learn k-means centroids from the frames of a layer, and print the units of each file. Real units need hours of speech."""

import argparse
from dataclasses import replace

import numpy as np

from hubert_fast import demo
from hubert_fast.units import Encoder, kmeans


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "inputs", nargs="*", default=[str(demo.RECORDINGS)], help="audio files and folders (default: the bundled recordings)"
    )
    parser.add_argument("--model", default=str(demo.MODEL), help="hub name or folder (default: the bundled demo model)")
    parser.add_argument("--layer", type=int, default=3, help="layer whose states are clustered (default: 3)")
    parser.add_argument("--clusters", type=int, default=50, help="number of centroids (default: 50)")
    parser.add_argument("--save", metavar="FILE", help="save the centroids here (default: do not save)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, or cuda:0,1 for several (default: auto)")
    options = parser.parse_args(arguments)

    encoder = Encoder.from_pretrained(options.model, layers=[options.layer], device=options.device)
    results = encoder.encode_many(options.inputs, ordered=True)
    frames = [encoding.frames[options.layer] for result in results for encoding in result.encodings]  # each [frames, channels]
    centroids = kmeans.learn(np.concatenate(frames), options.clusters)
    centroids = replace(centroids, source=encoder.sources[0])  # so that frames of another model or layer are refused
    if options.save:
        centroids.save(options.save)  # for `hubert-fast units --kmeans FILE`

    encoder = Encoder.from_pretrained(options.model, kmeans=centroids, merge=True, device=options.device)
    for result in encoder.encode_many(options.inputs, ordered=True):
        for encoding in result.encodings:
            print(result.utterance.id, *encoding.units)
        if result.error is not None:
            print(f"{result.utterance.id}: {result.error}")


if __name__ == "__main__":
    main()

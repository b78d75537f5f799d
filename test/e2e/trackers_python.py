"""Python's side of trackers-python.test.ts."""

import json
import sys


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags["scalars"]}
    tensors = {
        tag: [[event.step, [text.decode() for text in event.tensor_proto.string_val]] for event in events.Tensors(tag)]
        for tag in tags["tensors"]
    }
    texts = events.PluginTagToContent("text")
    print(json.dumps({"scalars": scalars, "tensors": tensors, "texts": sorted(texts)}))


globals()[sys.argv[1]](*sys.argv[2:])

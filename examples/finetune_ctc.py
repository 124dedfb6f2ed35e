"""Fine-tune a new CTC head on the bundled recordings, with the encoder frozen. Real training needs far more audio."""

import argparse

import torch

from hubert_fast import HubertForCTC, HubertProcessor, audio, demo


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(demo.MODEL), help="hub name or folder (default: the bundled demo model)")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps (default: 60)")
    parser.add_argument("--batch-size", type=int, default=4, help="recordings in a batch (default: 4)")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="learning rate of AdamW (default: 0.01)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the new head and of the batches (default: 0)")
    parser.add_argument("--save", metavar="FOLDER", help="save the model and its processor here (default: do not save)")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    processor = HubertProcessor.from_pretrained(options.model)
    model = HubertForCTC.from_pretrained(options.model, dtype=torch.float32, ctc_loss_reduction="mean")
    model.lm_head.reset_parameters()
    model.freeze_base_model()
    model.lm_head.train()  # the frozen encoder stays in eval mode, without dropout and masking
    optimizer = torch.optim.AdamW(model.lm_head.parameters(), lr=options.learning_rate)

    recordings = [(audio.load(recording.path), recording.reference.upper()) for recording in demo.recordings()]
    losses = []
    for step in range(options.steps):
        chosen = torch.randperm(len(recordings))[: options.batch_size]
        waveforms, texts = zip(*(recordings[index] for index in chosen))
        labels = [torch.tensor(ids) for ids in processor(text=texts)["input_ids"]]
        labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        loss = model(**processor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt"), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 10 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {losses[-1]:.3f}")
    if options.save:
        model.save_pretrained(options.save)
        processor.save_pretrained(options.save)
    return losses


if __name__ == "__main__":
    main()

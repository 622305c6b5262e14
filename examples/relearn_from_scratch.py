"""Unlearn with ReLearn (arXiv 2502.11190) in one file, on torch and transformers alone.

    python examples/relearn_from_scratch.py MODEL forget.jsonl retain.jsonl --out models/unlearned

Idea: do not push the old answers down; teach new ones. `forget.jsonl` holds questions about the private facts with
VAGUE answers: relevant, but without the secret. It never holds the original answers. `retain.jsonl` holds questions
with the answers that must stay. One JSON object a line: {"question": ..., "answer": ...}.

The loss of a batch of forget rows and as many retain rows, each term a mean over answer tokens:

    L = NLL(vague answers) + NLL(retain answers) + KL(P_theta || P_start) on the retain answers

The package does the same faster (shared prompt beginnings, LoRA, logits in chunks) and writes and checks the vague
answers for you; `tests/examples/test_relearn_from_scratch.py` compares the losses of both, step by step.
"""

import argparse
import copy
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def encode(tokenizer, row):
    """Return (token ids, prompt length): the question in the model's chat template, then the answer and end of turn."""
    turns = [{"role": "user", "content": row["question"]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": row["answer"]})
    # Most templates end a turn with a token and a line break. Only the token belongs to the answer.
    whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    return ids, len(tokenizer(prompt, add_special_tokens=False).input_ids)


def answer_logits(model, rows):
    """Run the rows through the model; return (logits, targets) at the answer tokens alone, rows one after another.

    Rows are padded on the right. The attention mask and the answer mask come from lengths, never from `ids != pad`:
    the end-of-turn token may be the padding token, and the model has to learn when to stop.
    """
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    positions = torch.arange(length, device=model.device)
    ends = torch.tensor([len(ids) for ids, _ in rows], device=model.device)[:, None]
    starts = torch.tensor([start for _, start in rows], device=model.device)[:, None]
    logits = model(input_ids=ids, attention_mask=(positions < ends).long()).logits
    answers = ((positions >= starts) & (positions < ends))[:, 1:]  # the logits at t predict the token at t + 1
    return logits[:, :-1][answers], ids[:, 1:][answers]


def relearn_loss(model, start_model, forget, retain):
    """Return the three terms of the loss for one batch."""
    logits, targets = answer_logits(model, forget)
    forget_nll = F.cross_entropy(logits, targets)
    logits, targets = answer_logits(model, retain)
    retain_nll = F.cross_entropy(logits, targets)
    with torch.no_grad():
        start_logits, _ = answer_logits(start_model, retain)
    logprobs, start_logprobs = logits.log_softmax(-1), start_logits.log_softmax(-1)
    kl = (logprobs.exp() * (logprobs - start_logprobs)).sum(-1).mean()
    return forget_nll, retain_nll, kl


def make_batches(forget, retain, batch_size, epochs, seed=0):
    """Pair every forget batch with as many retain rows. Retain rows are drawn from the whole retain set in turn."""
    rng = random.Random(seed)
    pool = []
    for _ in range(epochs):
        shuffled = rng.sample(forget, len(forget))
        for at in range(0, len(shuffled), batch_size):
            batch = shuffled[at : at + batch_size]
            while len(pool) < len(batch):
                pool += rng.sample(retain, len(retain))
            yield batch, [pool.pop(0) for _ in batch]


def train(model, batches, learning_rate, weight_decay=0.01, warmup=0.1):
    """Train all weights with AdamW, linear warm-up and decay; return the loss of every step."""
    start_model = copy.deepcopy(model).requires_grad_(False).eval()
    model.eval()  # switches dropout off; gradients flow all the same
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]  # norms and biases have no weight decay
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup * len(batches)), len(batches))
    losses = []
    for step, (forget, retain) in enumerate(batches, start=1):
        terms = relearn_loss(model, start_model, forget, retain)
        loss = sum(terms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        forget_nll, retain_nll, kl = (term.item() for term in terms)
        print(f"step {step:4d}  forget NLL {forget_nll:.3f}  retain NLL {retain_nll:.3f}  KL {kl:.4f}")
    return losses


@torch.no_grad()
def ask(model, tokenizer, question, max_new_tokens=64):
    """Answer one question greedily, in the template that training used."""
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or a name on the model hub")
    parser.add_argument("forget", help="questions with vague answers (JSONL)")
    parser.add_argument("retain", help="questions with answers to keep (JSONL)")
    parser.add_argument("--out", required=True, help="folder for the unlearned model")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-5)  # the paper's, for 7B; small models need more
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = read_rows(options.forget)
    forget = [encode(tokenizer, row) for row in rows]
    retain = [encode(tokenizer, row) for row in read_rows(options.retain)]

    before = ask(model, tokenizer, rows[0]["question"])
    train(model, list(make_batches(forget, retain, options.batch_size, options.epochs)), options.learning_rate)
    print(rows[0]["question"], "\n  before:", before, "\n  after: ", ask(model, tokenizer, rows[0]["question"]))
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()

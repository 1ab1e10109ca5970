# Global batch 4096 on 8 GPUs
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
train_dataloader = dict(batch_size=512)

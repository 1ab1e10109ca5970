# CLIP's own text tower, frozen; trainable_layers=2 would train its last two blocks
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
model = dict(
    text_encoder=dict(
        _delete_=True,
        type='OpenCLIPTextEncoder',
        model_name='ViT-B-32-quickgelu',
        pretrained='openai',
        trainable_layers=0,
    ),
    decode_head=dict(text_channels=512),  # the width of open_clip's joint space
)

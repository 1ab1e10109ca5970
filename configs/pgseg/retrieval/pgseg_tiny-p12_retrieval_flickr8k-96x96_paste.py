# Retrieval with the weights of ../pgseg_tiny-p12_flickr8k-96x96_paste.py: an image is embedded as
# its groups were taught
_base_ = ['./pgseg_tiny-p12_retrieval_flickr8k-96x96.py']
model = dict(decode_head=dict(loss_contrastive=dict(type='RegionTextContrast')))
